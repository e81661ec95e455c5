// The stack itself, and the message of the one error that a plan exists to prevent.
#include "device/arena.h"

#include <algorithm>
#include <map>

#include "base/file.h"

namespace thimble {

Arena::Arena(Device& device, Tier tier, int64_t capacity, Ledger& ledger) : tier_(tier), ledger_(ledger), storage_(device.reserve(tier, capacity)) {
  held_.reserve(1024);
}

Tensor Arena::take(Use use, const char* name, DType dtype, Shape shape) {
  int64_t bytes = 0;
  check(!__builtin_mul_overflow(shape.count(), size_of(dtype), &bytes) && bytes < INT64_MAX / 2 - top_, "a tensor's bytes fit 63 bits");
  if (top_ + aligned(bytes) > capacity()) out_of_budget(name, bytes);
  const Tensor t{storage_.data() + top_, dtype, shape};
  ledger_.took(tier_, use, name, top_, bytes);
  held_.push_back({name, use, top_, bytes});
  top_ += aligned(bytes);
  return t;
}

void Arena::give_back_to(int64_t mark) {
  check(mark >= 0 && mark <= top_, "an arena gives back what it gave, in the order of a stack");
  while (!held_.empty() && held_.back().offset >= mark) held_.pop_back();
  top_ = mark;
  ledger_.gave_back(tier_, mark);
}

void Arena::out_of_budget(const char* name, int64_t bytes) const {
  std::map<std::string, int64_t> by_name;
  for (const Held& h : held_) by_name[fmt::format("{} ({})", h.name, name_of(h.use))] += aligned(h.bytes);
  std::vector<std::pair<int64_t, std::string>> largest;
  for (const auto& [n, b] : by_name) largest.emplace_back(b, n);
  std::sort(largest.rbegin(), largest.rend());
  std::string holders;
  for (size_t i = 0; i < std::min<size_t>(4, largest.size()); ++i)
    holders += fmt::format("{}{} {}", i ? ", " : "", largest[i].second, human_bytes(largest[i].first));
  throw Error(Fault::does_not_fit, {.what = fmt::format("out of budget in the {} tier", name_of(tier_)),
                                    .where = fmt::format("{}, {}", name, human_bytes(bytes)),
                                    .expected = fmt::format("at most {} in all", human_bytes(capacity())),
                                    .found = fmt::format("{} in use; the largest: {}", human_bytes(top_), holders.empty() ? "nothing" : holders),
                                    .fix = "run `thimble plan` with this budget: it shows what fits"});
}

}  // namespace thimble

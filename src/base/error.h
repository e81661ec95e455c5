// Every failure has one form: what happened, where, what was expected, what was found, how to fix it.
// The fault is also the exit code, so that scripts can tell a bad file from a budget that does not fit.
#pragma once
#ifndef __CUDACC__  // fmt 9 is beyond nvcc; .cu files build their messages without it
#include <fmt/core.h>
#endif

#include <exception>
#include <source_location>
#include <string>
#include <string_view>

namespace thimble {

enum class Fault { internal = 1, usage = 2, bad_input = 3, does_not_fit = 4, peer = 5, interrupted = 75 };

struct Problem {
  std::string what;      // what happened, in a sentence without a full stop
  std::string where;     // file, tensor, line, key
  std::string expected;
  std::string found;
  std::string fix;       // what the user can do, a command where there is one
};

class Error : public std::exception {
 public:
  Error(Fault fault, Problem problem);
  explicit Error(std::string what) : Error(Fault::internal, {.what = std::move(what)}) {}
  const char* what() const noexcept override { return text_.c_str(); }  // all parts, several lines
  Fault fault() const { return fault_; }
  const Problem& problem() const { return problem_; }

 private:
  Fault fault_;
  Problem problem_;
  std::string text_;
};

[[noreturn]] void fail_check(std::string_view what, std::source_location at);

// A mistake of ours, not of the user: exit code 1, naming the line that noticed.
inline void check(bool ok, std::string_view what, std::source_location at = std::source_location::current()) {
  if (!ok) [[unlikely]] fail_check(what, at);
}

// "did you mean": the candidate with the smallest edit distance to `word` (empty if none is close).
template <class Range>
std::string nearest(std::string_view word, const Range& candidates);
int edit_distance(std::string_view a, std::string_view b);

template <class Range>
std::string nearest(std::string_view word, const Range& candidates) {
  std::string best;
  int least = int(word.size()) / 2 + 2;
  for (const auto& c : candidates) {
    const int d = edit_distance(word, c);
    if (d < least) least = d, best = std::string(c);
  }
  return best;
}

}  // namespace thimble

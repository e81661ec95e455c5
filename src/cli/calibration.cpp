// Least squares by op. A rate outside of what a machine can do (below nothing fixed, no faster with less work) falls back to the ratio.
#include "cli/calibration.h"

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "cli/run_plan.h"
#include "comm/rank.h"
#include "device/timeline.h"

namespace thimble::cli {
namespace {

fs::path file_of(const std::string& folder, std::string machine) {
  std::replace_if(machine.begin(), machine.end(), [](unsigned char c) { return !std::isalnum(c); }, '-');
  return fs::path(folder) / ("rates-" + machine + ".json");
}

// Products of one token with more weights than a cache holds, so many times; all bytes are zeros, which take as long.
void multiply(comm::Rank& rank, quant::FormatId id, int rounds) {
  constexpr int64_t side = 8192, enough = int64_t{256} << 20;
  const Shape matrix{side, side};
  const Tensor x = rank.memory.take(Use::scratch, "x", DType::f32, {1, side}), y = rank.memory.take(Use::scratch, "y", DType::f32, {1, side});
  std::vector<quant::Weight> weights(size_t(std::max<int64_t>(1, enough / quant::bytes_of(id, matrix, DType::bf16))), {.format = id, .shape = matrix});
  int count = 0;
  const auto parts = quant::parts_of(id, matrix, DType::bf16, count);
  for (quant::Weight& w : weights)
    for (size_t i = 0; i < size_t(count); ++i) w.parts[i] = rank.memory.take(Use::weights, "weights", parts[i].dtype, parts[i].shape);
  for (int i = 0; i < rounds; ++i)
    for (const quant::Weight& w : weights) quant::format(id).multiply_few(rank.stream, x, std::array{quant::FewProduct{y, &w}});
}

}  // namespace

std::shared_ptr<const DeviceSpec> processor_that_multiplies(quant::FormatId id) {
  DeviceSpec spec = this_cpu();
  const std::string name = machine_name(spec);
  const auto kept = kept_rates(cache_folder(), name);
  const auto phantom = phantom_device(spec);
  comm::Rank rehearsed(*phantom, comm::boundless);
  multiply(rehearsed, id, 1);
  OpRates rates = kept ? *kept : OpRates{};
  const auto ran = std::ranges::find(rehearsed.ledger.entries(), Entry::Kind::ran, &Entry::kind);
  if (!rates.contains(ran->name)) {
    const auto device = cpu_device(spec);
    comm::Rank rank(*device, {rehearsed.ledger.peak(Tier::device)});
    Profile profile;
    rank.stream.profile = &profile;
    const auto measured = [&](int rounds) { const Scope scope(rank.memory); multiply(rank, id, rounds); };
    measured(1), profile.clear(), measured(3);
    rates.merge(measured_rates(profile, spec));
    if (const std::string folder = cache_folder(); !folder.empty()) keep_rates(folder, name, rates);
  }
  spec.rates = std::make_shared<const OpRates>(std::move(rates));
  return std::make_shared<const DeviceSpec>(std::move(spec));
}

OpRates measured_rates(const Profile& profile, const DeviceSpec& spec) {
  DeviceSpec plain = spec;
  plain.rates = nullptr;
  const Timeline timeline(plain);
  struct Sums { double n = 0, x = 0, y = 0, xx = 0, xy = 0; };  // x: the floor of a call, y: its seconds
  std::map<std::string, Sums> sums;
  for (const auto& e : profile.events()) {
    const auto cost = timeline.cost_of({.kind = Entry::Kind::ran, .matrix = e.matrix, .name = e.name, .bytes = int64_t(e.bytes), .flops = e.flops});
    const double x = std::max(cost.by_flops, cost.by_bytes);
    Sums& s = sums[e.name];
    s.n += 1, s.x += x, s.y += e.seconds, s.xx += x * x, s.xy += x * e.seconds;
  }
  OpRates rates;
  for (const auto& [name, s] : sums) {
    const double spread = s.n * s.xx - s.x * s.x;
    if (spread > 0.05 * s.n * s.xx) {
      const double slope = (s.n * s.xy - s.x * s.y) / spread, fixed = (s.y - slope * s.x) / s.n;
      if (slope > 0 && fixed >= 0) {
        rates[name] = {fixed, 1 / slope};
        continue;
      }
    }
    const double fixed = std::min(plain.op_seconds, 0.5 * s.y / s.n);
    rates[name] = {fixed, s.x > 0 ? s.x / (s.y - s.n * fixed) : 1};
  }
  return rates;
}

void keep_rates(const std::string& folder, const std::string& machine, const OpRates& rates) {
  Json j = {{"machine", machine}, {"ops", Json::object()}};
  for (const auto& [name, rate] : rates) j["ops"][name] = {{"fixed_seconds", rate.fixed}, {"share_of_floor", rate.speed}};
  fs::create_directories(folder);
  write_atomically(file_of(folder, machine), j.dump(2) + "\n");
}

std::shared_ptr<const OpRates> kept_rates(const std::string& folder, const std::string& machine) {
  const fs::path file = file_of(folder, machine);
  std::error_code ignored;
  if (folder.empty() || !fs::is_regular_file(file, ignored)) return nullptr;
  try {
    const Json j = parse_json(read_text(file, 1 << 20), file.string());
    OpRates rates;
    for (const auto& [name, rate] : j.at("ops").items()) {
      const OpRate r{rate.at("fixed_seconds").get<double>(), rate.at("share_of_floor").get<double>()};
      if (!(r.fixed >= 0 && r.speed > 0)) return nullptr;
      rates[name] = r;
    }
    return std::make_shared<const OpRates>(std::move(rates));
  } catch (const std::exception&) {
    return nullptr;  // damaged: as if it had never been measured
  }
}

}  // namespace thimble::cli

// Least squares by op. A rate outside of what a machine can do (below nothing fixed, no faster with less work) falls back to the ratio.
#include "cli/calibration.h"

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "device/timeline.h"

namespace thimble::cli {
namespace {

fs::path file_of(const std::string& folder, std::string machine) {
  std::replace_if(machine.begin(), machine.end(), [](unsigned char c) { return !std::isalnum(c); }, '-');
  return fs::path(folder) / ("rates-" + machine + ".json");
}

}  // namespace

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

// Sums by name, and the tables that a person reads: op, calls, time, share of all time, rate, and what the plan had said.
#include "device/profile.h"

#include <fmt/core.h>

#include <algorithm>

#include "device/timeline.h"

namespace thimble {
namespace {

template <class Name>
std::vector<Profile::Row> rows_of(const std::vector<Profile::Event>& events, const DeviceSpec& spec, Name&& name_of_event) {
  const Timeline timeline(spec);
  std::vector<Profile::Row> rows;
  for (const auto& e : events) {
    const std::string name = name_of_event(e);
    auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.name == name; });
    if (row == rows.end()) row = rows.insert(rows.end(), {.name = name});
    row->seconds += e.seconds;
    row->flops += e.flops;
    row->bytes += e.bytes;
    row->predicted += timeline.seconds_of({.kind = Entry::Kind::ran, .tier = e.where, .matrix = e.matrix, .name = e.name, .bytes = int64_t(e.bytes), .flops = e.flops});
    ++row->calls;
  }
  return rows;
}

}  // namespace

void Profile::add(const Work& w, int layer, Tier where, double start, double seconds) {
  events_.push_back({w.name, layer, w.matrix, start, seconds, w.flops, w.bytes, where});
}

std::vector<Profile::Row> Profile::by_op(const DeviceSpec& spec) const {
  auto rows = rows_of(events_, spec, [](const Event& e) { return std::string(e.name) + (e.where == Tier::device ? "" : ", processor"); });
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return rows;
}

std::vector<Profile::Row> Profile::by_layer(const DeviceSpec& spec) const {
  auto sorted = events_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Event& a, const Event& b) { return a.layer < b.layer; });
  return rows_of(sorted, spec, [](const Event& e) { return e.layer < 0 ? std::string("outside the layers") : fmt::format("layer {}", e.layer); });
}

std::string table(const std::vector<Profile::Row>& rows, const DeviceSpec& spec) {
  double total = 0, predicted = 0;
  for (const auto& r : rows) total += r.seconds, predicted += r.predicted;
  std::string text = fmt::format("{:<26} {:>8} {:>10} {:>10} {:>6} {:>10} {:>9} {:>7}\n", "", "calls", "ms", "predicted", "%", "GFLOP/s", "GB/s", "% peak");
  for (const auto& r : rows)
    text += fmt::format("{:<26} {:>8} {:>10.2f} {:>10.2f} {:>6.1f} {:>10.1f} {:>9.2f} {:>7.1f}\n", r.name, r.calls, r.seconds * 1e3, r.predicted * 1e3,
                        100 * r.seconds / total, r.flops / r.seconds / 1e9, r.bytes / r.seconds / 1e9, 100 * r.flops / r.seconds / spec.flops);
  return text + fmt::format("{:<26} {:>8} {:>10.2f} {:>10.2f}\n", "all", "", total * 1e3, predicted * 1e3);
}

std::string chrome_trace(const Profile& profile) {
  std::string text = "{\"traceEvents\": [\n";
  for (const auto& e : profile.events())
    text += fmt::format("{}{{\"name\": \"{}\", \"cat\": \"op\", \"ph\": \"X\", \"pid\": 0, \"tid\": 0, \"ts\": {:.3f}, \"dur\": {:.3f}, \"args\": {{\"layer\": {}, \"flops\": {:.0f}, \"bytes\": {:.0f}}}}}",
                        &e == profile.events().data() ? "" : ",\n", e.name, e.start * 1e6, e.seconds * 1e6, e.layer, e.flops, e.bytes);
  return text + "\n]}\n";
}

}  // namespace thimble

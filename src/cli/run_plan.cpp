// The budget's rows: what the user named, or what the machine has; the program's own memory is taken off the host's first.
#include "cli/run_plan.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/threads.h"
#include "cli/calibration.h"
#include "device/catalogue.h"
#include "device/cuda.h"
#include "device/disk.h"
#include "models/registry.h"
#include "train/tuning.h"

namespace thimble::cli {

plan::Space space_of(const train::Setup& s, const DeviceSpec& spec) {
  const auto& m = s.model;
  const auto& [weights, lora] = std::tie(s.method.weights, s.method.lora);
  const bool same_unpacked = quant::format(s.method.format).same_unpacked;
  plan::Space space{.layers = int(m.layers.size()), .can_stream = true, .can_window = !(m.tied_head && weights.embedding), .layers_alike = true,
                    .packed = s.method.format != quant::FormatId::dense && same_unpacked, .wide = s.method.trains_weights() && spec.compute != weights.dtype,
                    .can_host_embedding = nn::can_host_embedding(m, s.method, spec), .tokens_per_row = s.tokens_per_row, .vocab = m.vocab};
  for (int l = 0; l < space.layers; ++l) {
    space.trained_layers += weights.layers[l].any();
    space.layers_alike &= m.layers[size_t(l)] == m.layers.front() && weights.layers[l] == weights.layers[0] && lora.layers[l] == lora.layers[0];
  }
  if (lora.dropout > 0 || !same_unpacked) space.token_chunks.clear();  // masks, and INT8's outliers, are of whole micro-batches
  if (m.rope_follows_length()) space.window = 1;                                // its tables are those of one pass
  return space;
}

namespace {

constexpr int64_t data_headroom = int64_t{24} << 20;  // tokenizer, dataset, logs: what a run's own bookkeeping grows to beside its arenas

int64_t kib_line(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) return std::strtoll(line.c_str() + key.size(), nullptr, 10) * 1024;
  return 0;
}

plan::Space space_of_run(const train::TrainOptions& o, const train::Setup& s, const DeviceSpec& spec) {
  plan::Space space = space_of(s, spec);
  space.batch = o.per_device_train_batch_size, space.accumulation = o.gradient_accumulation_steps;
  space.paged_optimizer = o.optimizer().paged;
  if (o.resident_layers) space.resident_layers = int(std::clamp<int64_t>(*o.resident_layers, space.all_trained() ? 0 : space.trained_layers, space.layers));
  if (o.save == train::SavePin::keep) space.save = nn::Save::keep;
  if (o.save == train::SavePin::recompute) space.save = nn::Save::recompute;
  if (o.save == train::SavePin::offload) space.save = nn::Save::offload;
  space.recompute_all = o.gradient_checkpointing.value_or(false);
  space.keep_all = o.disable_gradient_checkpointing || (o.gradient_checkpointing && !*o.gradient_checkpointing);
  return space;
}

constexpr int64_t mib = int64_t{1} << 20, tib = mib << 20, own_bytes_vary = 8 * mib;
int64_t whole_mib(int64_t bytes) { return (bytes + mib - 1) / mib * mib; }
std::string mib_text(int64_t bytes) { return fmt::format("{}MiB", whole_mib(bytes) / mib); }  // as it is typed, rounded up: what is printed fits

constexpr const char* disk_folder = "/var/tmp";  // that is suggested: for large files, and on a disk where /tmp may be in memory

struct Change {
  std::string text;
  std::function<bool(train::TrainOptions&)> apply;  // false: changes nothing here
};

}  // namespace

std::string cache_folder() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  if (cache && *cache == '/') return (fs::path(cache) / "thimble").string();
  return home && *home ? (fs::path(home) / ".cache" / "thimble").string() : "";
}

int64_t process_bytes() { return kib_line("/proc/self/status", "RssAnon:"); }
int64_t available_bytes() { return kib_line("/proc/meminfo", "MemAvailable:"); }

DeviceSpec machine(std::string_view device, const std::optional<int64_t>& threads) {
  if (threads) set_thread_count(int(*threads));
  if (device != "auto" && device != "cpu" && device != "cuda")
    throw Error(Fault::usage, {.what = "no such device", .expected = "auto, cpu or cuda", .found = fmt::format("'{}'", device)});
#ifdef THIMBLE_CUDA
  if (device == "cuda" || (device == "auto" && cuda_count() > 0)) {
    static const DeviceSpec card = [] {  // a process makes its context once
      DeviceSpec spec = measured_cuda();
      spec.cache = cache_folder();
      return spec;
    }();
    return card;
  }
#else
  if (device == "cuda") throw Error(Fault::usage, {.what = "this program was built without CUDA", .fix = "build the `cuda` preset, or use device: cpu"});
#endif
  DeviceSpec spec = this_cpu();
  spec.rates = kept_rates(cache_folder(), machine_name(spec));
  return spec;
}

std::string machine_name(const DeviceSpec& spec) { return spec.kind == DeviceKind::cpu ? fmt::format("{}, {} threads", spec.name, thread_count()) : spec.name; }

int64_t device_budget([[maybe_unused]] const DeviceSpec& spec, const std::optional<int64_t>& named) {
#ifdef THIMBLE_CUDA
  if (spec.kind == DeviceKind::cuda) {
    // Of what the user named, or of what is free, if that is less. Where that was not measured: free beside a context that is there already.
    const int64_t free = spec.free > 0 ? spec.free : cuda_free_bytes(spec.index) + spec.overhead - (int64_t{64} << 20);
    const int64_t card = named ? std::min(*named, free) : free;
    if (card <= spec.overhead)
      throw Error(Fault::does_not_fit, {.what = "the driver's context and the libraries alone take more of the card than the budget", .expected = "more than " + human_bytes(spec.overhead),
                                        .found = human_bytes(card), .fix = "name a larger vram, or close what else uses the card"});
    return card - spec.overhead;
  }
#endif
  return named ? *named : available_bytes() / 4 * 3;  // on the cpu the device tier is RAM too
}

int64_t disk_budget(DeviceSpec& spec, const train::DiskSpace& disk, bool this_machine) {
  spec.disk = disk.folder;
  if (!this_machine) return disk.size.count;
  check_disk_folder(disk.folder);
  return std::min(disk.size.count, free_disk_bytes(disk.folder));
}

namespace {

// The card that is planned for whether it is here or not, with nothing else on it; else this machine.
DeviceSpec planned_machine(const train::TrainOptions& o) { return o.gpu ? spec_of(*find_gpu(*o.gpu)) : machine(o.device, o.threads); }

int64_t planned_device_budget(const train::TrainOptions& o, const DeviceSpec& spec) {
  const auto named = o.vram ? std::optional(o.vram->count) : std::nullopt;
  if (!o.gpu) return device_budget(spec, named);
  const int64_t card = std::min(named.value_or(spec.memory), spec.memory);
  if (card <= spec.overhead)
    throw Error(Fault::does_not_fit, {.what = "the driver's context and the libraries alone take more of the card than the budget", .expected = "more than " + human_bytes(spec.overhead),
                                      .found = human_bytes(card), .fix = "name a larger vram"});
  return card - spec.overhead;
}

}  // namespace

Planned make_plan(const train::TrainOptions& o, std::optional<plan::SumOrder> order) {
  Planned p;
  p.spec = planned_machine(o);
  p.spec.deterministic = o.deterministic;
  if (o.fp16.value_or(false)) p.spec.compute = DType::f16;
  auto tuning = train::tuning_of(models::read_model(o.model_name_or_path), o);
  const auto rule = o.optimizer();
  p.setup = {.model = std::move(tuning.model), .method = std::move(tuning.method), .adapter = std::move(tuning.adapter),
             .optimizer = rule.id, .hyper = rule.hyper, .weight_decay = float(o.weight_decay), .lora_b_rate = float(o.loraplus_lr_ratio.value_or(1)),
             .max_grad_norm = float(o.max_grad_norm), .tokens_per_row = o.cutoff_len, .seed = uint64_t(o.seed)};
  p.setup.tables = nn::tables_of(p.setup.model, p.setup.method);
  p.process_bytes = process_bytes() + data_headroom;
  const int64_t available = available_bytes();
  p.budget.device = planned_device_budget(o, p.spec);
  p.budget.ram = (o.ram ? o.ram->count : p.spec.kind == DeviceKind::cpu ? available / 4 : available / 10 * 9) - p.process_bytes;
  p.space = space_of_run(o, p.setup, p.spec);
  p.space.order = order;
  if (o.disk) {
    p.budget.disk = disk_budget(p.spec, *o.disk, !o.gpu);
    p.space.has_disk = true;
  }
  // A thousand dry runs take and free the same few MiB: the heap keeps them until the last one.
  constexpr int kept = 64 << 20;
  ::mallopt(M_TRIM_THRESHOLD, kept), ::mallopt(M_MMAP_THRESHOLD, kept);
  p.choice = plan::choose(p.budget, p.space, p.dry_run());
  ::malloc_trim(0);
  return p;
}

plan::DryRun Planned::dry_run() const {
  return [this](const plan::Plan& plan) { return train::Trainer::rehearse(spec, setup, plan); };
}

void refuse(const train::TrainOptions& o, const Planned& planned) {
  const bool plain = planned.setup.model.stored.format == quant::FormatId::dense, may_use_disk = !planned.space.all_trained() && (o.gpu || ::access(disk_folder, W_OK) == 0);
  const std::vector<Change> changes = {
      {"finetuning_type: lora", [](auto& c) { return c.finetuning_type != train::Finetuning::lora && (c.finetuning_type = train::Finetuning::lora, true); }},
      {"finetuning_type: lora and quantization_bit: 4",
       [](auto& c) {
         const bool was = c.finetuning_type != train::Finetuning::lora;
         c.finetuning_type = train::Finetuning::lora;
         c.quantization_bit = 4;
         return was;
       }},
      {"quantization_bit: 4", [plain](auto& c) { return plain && c.finetuning_type == train::Finetuning::lora && c.quantization_bit != 4 && (c.quantization_bit = 4, true); }},
      {"pure_bf16: true", [](auto& c) { return c.finetuning_type != train::Finetuning::lora && !c.pure_bf16.value_or(false) && (c.pure_bf16 = true, true); }},
      {"optim: adamw_8bit",  // whose states the plan pages where it must
       [](auto& c) { return (c.optim == train::Optim::adamw || c.optim == train::Optim::paged_adamw) && (c.optim = train::Optim::adamw_8bit, true); }},
      {"disk: {}",  // as much as there is; what the plan takes of it is said
       [may_use_disk](auto& c) { return may_use_disk && !c.disk && (c.disk = {disk_folder, Bytes{c.gpu ? tib : free_disk_bytes(disk_folder)}}, true); }},
      {"cutoff_len: {}", [](auto& c) { return c.cutoff_len >= 64 && (c.cutoff_len = c.cutoff_len / 4 * 3, true); }},
      {"cutoff_len: {}", [](auto& c) { return c.cutoff_len >= 32 && (c.cutoff_len /= 2, true); }},
      {"cutoff_len: {}", [](auto& c) { return c.cutoff_len >= 64 && (c.cutoff_len /= 4, true); }},
      {"cutoff_len: {}", [](auto& c) { return c.cutoff_len >= 256 && (c.cutoff_len /= 16, true); }},
      {"lora_rank: 4", [](auto& c) { return c.finetuning_type == train::Finetuning::lora && c.lora_rank > 4 && (c.lora_rank = 4, c.lora_alpha = 8, true); }},
      {"ram: {}", [](auto& c) { return c.ram && (c.ram->count = whole_mib(2 * c.ram->count), true); }},
  };
  std::string fits;
  int found = 0;
  std::string_view last;
  for (const auto& change : changes) {
    auto changed = o;
    if (found == 3 || change.text == last || !change.apply(changed)) continue;
    const auto again = make_plan(changed);
    if (!again.choice.best) continue;
    auto text = change.text;
    if (text == "cutoff_len: {}") text = fmt::format("cutoff_len: {}", changed.cutoff_len);
    if (text == "ram: {}") text = "ram: " + mib_text(changed.ram->count);
    const auto& [plan, outcome] = *again.choice.best;
    if (text == "disk: {}") text = fmt::format("disk: {}:{}", disk_folder, mib_text(outcome.disk()));
    fits += fmt::format("\n            {} ({} of the device, {:.0f} tokens/s predicted)", text, human_bytes(outcome.device()),
                        outcome.tokens_per_second(plan));
    ++found;
    last = change.text;  // the least of its kind
  }
  const auto& least = planned.choice.least.outcome;
  auto larger = o;
  // What is there already stays; the program's own bytes differ a little from one start to the next.
  larger.vram = Bytes{whole_mib(std::max(planned.budget.device, least.device()) + planned.spec.overhead)};
  larger.ram = Bytes{whole_mib(std::max(planned.budget.ram, least.ram()) + planned.process_bytes + own_bytes_vary)};
  if (make_plan(larger).choice.best) fits += fmt::format("\n            vram: {} and ram: {}", mib_text(larger.vram->count), mib_text(larger.ram->count));
  const auto& choice = planned.choice;
  const char* short_of = choice.device_suffices && choice.ram_suffices ? (planned.space.has_disk ? "device memory, RAM and disk together are" : "device memory and RAM together are")
                         : choice.device_suffices                      ? "RAM is"
                         : choice.ram_suffices                         ? "device memory is"
                                                                       : "device memory and RAM are";
  throw Error(Fault::does_not_fit, {.what = fmt::format("this run does not fit the budget: {} too small; nothing was read or written", short_of),
                                    .where = o.model_name_or_path,
                                    .expected = fmt::format("at most {} of the device tier and {} of RAM{}", human_bytes(planned.budget.device),
                                                            human_bytes(planned.budget.ram + planned.process_bytes),
                                                            planned.space.has_disk ? fmt::format(", {} of disk", human_bytes(planned.budget.disk)) : ""),
                                    .found = fmt::format("the least of {} plans takes {} and {}", choice.tried, human_bytes(least.device()),
                                                         human_bytes(least.ram() + planned.process_bytes)),
                                    .fix = fits.empty() ? "" : "any of these fits:" + fits});
}

}  // namespace thimble::cli

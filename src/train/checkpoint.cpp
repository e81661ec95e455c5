// A checkpoint is a sealed folder: the trained model's files, training_state.safetensors with what those do not hold, run_state.json, and
// the run's log so far, so that a resumed run's log goes on without a line lost or told twice.
#include "train/checkpoint.h"

#include <algorithm>

#include "base/log.h"
#include "store/adapter_files.h"
#include "train/fingerprint.h"

namespace thimble::train {
namespace {

constexpr int64_t run_format = 1;
constexpr int64_t disk_margin = int64_t{16} << 20;  // for the tokenizer's files, and for logs to go on
constexpr std::string_view folder_start = "checkpoint-";

// Options that may change between two parts of a run: where things lie, what is shown and saved, how long it goes on. `model_name_or_path`
// and the data are compared by content. An option that is not here must stay.
constexpr std::string_view may_change[] = {"model_name_or_path",
                                           "adapter_name_or_path",
                                           "dataset",
                                           "eval_dataset",
                                           "dataset_dir",
                                           "tokenized_path",
                                           "overwrite_cache",
                                           "per_device_eval_batch_size",
                                           "num_train_epochs",
                                           "max_steps",
                                           "bf16",
                                           "gradient_checkpointing",
                                           "disable_gradient_checkpointing",
                                           "output_dir",
                                           "overwrite_output_dir",
                                           "logging_steps",
                                           "logging_first_step",
                                           "plot_loss",
                                           "report_to",
                                           "logging_dir",
                                           "eval_strategy",
                                           "eval_steps",
                                           "save_strategy",
                                           "save_steps",
                                           "save_total_limit",
                                           "load_best_model_at_end",
                                           "metric_for_best_model",
                                           "greater_is_better",
                                           "resume_from_checkpoint",
                                           "vram",
                                           "ram",
                                           "disk",
                                           "device",
                                           "threads",
                                           "save",
                                           "resident_layers"};
bool may_differ(std::string_view key) { return std::find(std::begin(may_change), std::end(may_change), key) != std::end(may_change); }

// The step in "checkpoint-12", -1 of other names.
int64_t step_of(std::string_view name) {
  if (!name.starts_with(folder_start) || name.size() > folder_start.size() + 18) return -1;
  const auto digits = name.substr(folder_start.size());
  if (digits.empty() || digits.find_first_not_of("0123456789") != digits.npos) return -1;
  return std::strtoll(std::string(digits).c_str(), nullptr, 10);
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) fail_field(where, key, "this key", nullptr);
  return *it;
}

struct Place {
  int64_t serial = -1, step = 0;  // serial -1: its manifest cannot be read
  fs::path folder;
};
// The folders of checkpoints, the oldest first.
std::vector<Place> places_in(const fs::path& output_dir) {
  std::vector<Place> all;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output_dir, error)) {
    const int64_t step = step_of(entry.path().filename().string());
    if (step < 0 || !entry.is_directory(error)) continue;
    const auto manifest = store::read_manifest(entry.path());
    all.push_back({manifest ? manifest->serial : -1, step, entry.path()});
  }
  std::sort(all.begin(), all.end(),
            [](const Place& a, const Place& b) { return std::pair(a.serial, a.step) < std::pair(b.serial, b.step); });
  return all;
}

Json to_json(const RunState& s, const Recipe& r) {
  return {{"format", run_format},         {"step", s.step},       {"tokens", s.tokens},
          {"loss_sum", s.loss_sum},       {"seconds", s.seconds}, {"best_loss", s.best_loss ? Json(*s.best_loss) : Json(nullptr)},
          {"best_step", s.best_step},     {"model", r.model},     {"data", r.data},
          {"loss_scale", s.loss_scale.scale}, {"good_steps", s.loss_scale.good}, {"skipped_steps", s.loss_scale.skipped},
          {"micro_batch", r.order.micro_batch}, {"token_chunk", r.order.token_chunk}, {"head_chunk", r.order.head_chunk},
          {"machine", r.machine},         {"options", r.options}};
}

Checkpoint read_checkpoint(const fs::path& folder) {
  const fs::path path = folder / run_file;
  const std::string where = path.string();
  const Json j = parse_json(read_text(path, int64_t{1} << 20), where, 8);
  if (!j.is_object()) fail_field(where, "run_state", "an object", &j);
  if (require<int64_t>(j, "format", where) > run_format) fail_field(where, "format", "1: a newer program wrote this", &j["format"]);
  Checkpoint c{.folder = folder};
  c.state = {.step = require<int64_t>(j, "step", where),
             .tokens = require<int64_t>(j, "tokens", where),
             .loss_sum = require<double>(j, "loss_sum", where),
             .seconds = require<double>(j, "seconds", where),
             .best_step = require<int64_t>(j, "best_step", where)};
  if (!member(j, "best_loss", where).is_null()) c.state.best_loss = require<double>(j, "best_loss", where);
  c.recipe = {.options = member(j, "options", where),
              .model = require<std::string>(j, "model", where),
              .data = require<std::string>(j, "data", where),
              .order = {.micro_batch = require<int64_t>(j, "micro_batch", where), .head_chunk = 1024},
              .machine = require<std::string>(j, "machine", where)};
  // An older one has none of these: layers ran whole, and logits of 1,024 tokens, where these fitted.
  if (j.contains("token_chunk")) c.recipe.order.token_chunk = require<int64_t>(j, "token_chunk", where);
  if (j.contains("head_chunk")) c.recipe.order.head_chunk = require<int64_t>(j, "head_chunk", where);
  if (j.contains("loss_scale"))
    c.state.loss_scale = {require<double>(j, "loss_scale", where), require<int64_t>(j, "good_steps", where), require<int64_t>(j, "skipped_steps", where)};
  if (c.state.step < 1 || !(c.state.loss_scale.scale >= 1) || c.state.loss_scale.good < 0 || c.state.loss_scale.skipped < 0 || c.state.loss_scale.skipped > c.state.step || c.recipe.order.micro_batch < 1 || c.recipe.order.token_chunk < 0 || c.recipe.order.head_chunk < 1 || !c.recipe.options.is_object())
    fail_field(where, "step, micro_batch, token_chunk, head_chunk, loss_scale, good_steps, skipped_steps, options", "what a run has", nullptr);
  return c;
}

Error unusable(const fs::path& folder, std::string found) {
  return Error(Fault::bad_input, {.what = "a checkpoint cannot be used",
                                  .where = folder.string(),
                                  .expected = "the files that its manifest.json names",
                                  .found = std::move(found),
                                  .fix = "name another; or begin anew with its weights, as adapter_name_or_path or model_name_or_path"});
}

// What an option makes of a run's numbers: paging moves the optimizer's states and changes none.
Json effect(const std::string& key, const Json& value) {
  if (key == "pure_bf16" && value.is_null()) return false;
  if (key != "optim" || !value.is_string()) return value;
  const auto text = value.get<std::string>();
  return text == "paged_adamw_32bit" ? Json("adamw_torch") : text == "paged_adamw_8bit" ? Json("adamw_8bit") : text == "paged_lion_32bit" ? Json("lion_32bit") : text == "paged_lion_8bit" ? Json("lion_8bit") : value;
}

Error other_run(const Checkpoint& c, std::string what, std::string expected, std::string found, std::string fix) {
  return Error(Fault::usage, {.what = std::move(what),
                              .where = c.folder.string(),
                              .expected = std::move(expected),
                              .found = std::move(found),
                              .fix = std::move(fix)});
}

}  // namespace

std::optional<Checkpoint> find_checkpoint(const TrainOptions& o) {
  const Resume& from = o.resume_from_checkpoint;
  if (!from) return std::nullopt;
  if (!from.newest) {
    if (const auto damage = store::damage_of(from.folder); !damage.empty()) throw unusable(from.folder, damage);
    return read_checkpoint(from.folder);
  }
  auto places = places_in(o.output_dir);
  // Those without a manifest that can be read come first, to be named: nobody knows whether they are the newest.
  const auto readable = std::stable_partition(places.begin(), places.end(), [](const Place& p) { return p.serial < 0; });
  std::reverse(readable, places.end());
  std::string damages;
  for (const Place& p : places) {
    const auto damage = store::damage_of(p.folder);
    if (damage.empty()) return read_checkpoint(p.folder);
    log_warning("{} is passed over: {}", p.folder.string(), damage);
    damages += fmt::format("{}{}: {}", damages.empty() ? "" : "; ", p.folder.filename().string(), damage);
  }
  if (!places.empty()) throw unusable(o.output_dir, damages);
  log_warning("resume_from_checkpoint: there is no checkpoint in {}; the run begins at the beginning", o.output_dir);
  return std::nullopt;
}

void require_same_run(const Checkpoint& c, const Recipe& now, int64_t total_steps) {
  const Json defaults = thimble::to_json(TrainOptions{});
  for (const auto& [key, value] : now.options.items()) {
    if (may_differ(key)) continue;
    const Json& then =
        c.recipe.options.contains(key) ? c.recipe.options[key] : defaults[key];  // an option that is newer than the checkpoint
    if (effect(key, then) != effect(key, value))
      throw other_run(c, fmt::format("the checkpoint is of a run with another '{}'", key), fmt::format("{}: {}", key, then.dump()),
                      value.dump(),
                      fmt::format("{}={}; or begin anew without resume_from_checkpoint", key,
                                  then.is_string() ? then.get<std::string>() : then.dump()));
  }
  if (c.recipe.model != now.model)
    throw other_run(c, "the checkpoint is of a run on another base model", c.recipe.options.value("model_name_or_path", "its base"),
                    now.options.value("model_name_or_path", ""), "name the base that it was trained on, unchanged");
  if (c.recipe.data != now.data)
    throw other_run(c, "the checkpoint is of a run on other data", "the same rows, tokens and order", "others",
                    "name the files that it was trained on, unchanged");
  if (c.state.step > total_steps)
    throw other_run(c, "the checkpoint is beyond the end of the run", fmt::format("at most {} steps", total_steps),
                    fmt::format("{} steps", c.state.step), "raise max_steps or num_train_epochs");
  for (const char* key : {"max_steps", "num_train_epochs"})
    if (c.recipe.options.contains(key) && c.recipe.options[key] != now.options[key])
      log_warning("{} was {} and is {}: the learning rate follows the new number of steps from here on", key, c.recipe.options[key].dump(),
                  now.options[key].dump());
  const auto order = [](const plan::SumOrder& o) { return fmt::format("{} (layers in chunks of {} tokens, logits of {})", o.micro_batch, o.token_chunk, o.head_chunk); };
  if (c.recipe.machine != now.machine || c.recipe.order != now.order)
    log_warning("the run began on {} with micro-batches of {}, and goes on on {} with {}: the same numbers but for rounding", c.recipe.machine, order(c.recipe.order),
                now.machine, order(now.order));
}

void restore(Trainer& trainer, const Setup& setup, const Checkpoint& c) {
  const store::SafetensorsFile states(c.folder / state_file);
  const bool in_states = loses_bits(setup);
  const store::SafetensorsFile values(c.folder / (in_states ? state_file : setup.method.lora.any() ? adapter_file : model_file));
  const auto read = [](const store::SafetensorsFile& file, const std::string& name, int64_t first, Tensor piece) {
    const store::TensorInfo* info = file.find(name);
    if (!info || first + piece.count() > info->shape.count())
      throw Error(
          Fault::bad_input,
          {.what = "a tensor of a checkpoint is missing or too small", .where = file.where(name), .fix = "resume from another checkpoint"});
    file.read(*info, first, piece);
  };
  trainer.restore(
      c.state.step - c.state.loss_scale.skipped, c.state.loss_scale,
      [&](const store::ParamSpec& p, int64_t first, Tensor piece) { read(values, setup.method.lora.any() ? store::peft_name(p) : store::name_in_file(p), first, piece); },
      [&](const std::string& name, int64_t first, Tensor piece) { read(states, name, first, piece); });
}

Checkpoints::Checkpoints(const TrainOptions& o, const Setup& setup) : options_(o), setup_(setup) {
  std::error_code error;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(o.output_dir, error)) {
    const std::string name = entry.path().filename().string();
    const auto aside = name.rfind(".tmp-");  // AtomicFile's
    const bool is_file = aside != name.npos && aside + 5 < name.size() && name.find_first_not_of("0123456789", aside + 5) == name.npos;
    if (is_file || (name.starts_with(folder_start) && name.ends_with(store::partial_ending))) left.push_back(entry.path());
  }
  for (const auto& path : left) fs::remove_all(path, error);
}

fs::path Checkpoints::folder_of(int64_t step) const { return fs::path(options_.output_dir) / fmt::format("{}{}", folder_start, step); }
bool Checkpoints::any() const { return !places_in(options_.output_dir).empty(); }

int64_t Checkpoints::bytes_of(Trainer& trainer, const Setup& setup) {
  // A folder of weights holds those that stay frozen too.
  int64_t bytes = setup.method.lora.any() ? 0 : nn::parameters(setup.model, quant::FormatId::dense).parameters() * size_of(nn::file_dtype(setup.model));
  for (const auto& t : trainer.model().trained()) bytes += (setup.method.lora.any() ? t.value.bytes() : 0) + (loses_bits(setup) ? t.value.bytes() : 0);
  for (const auto& s : trainer.states()) bytes += s.home.bytes();
  return bytes;
}

bool Checkpoints::save(Trainer& trainer, const RunState& state, const Recipe& recipe, const TrainerLog& log, const RunReport& report) {
  const fs::path folder = folder_of(state.step);
  const int64_t needed = bytes_of(trainer, setup_) + disk_margin, free = free_disk_bytes(options_.output_dir);
  if (needed > free) {
    log_warning("{} is not saved: it wants {} of disk and {} are free; training goes on, with what was saved before", folder.string(),
                human_bytes(needed), human_bytes(free));
    return false;
  }
  const auto failed = [&](std::string_view what, std::string_view why) {
    log_warning("{} is not saved: {} ({}); training goes on, with what was saved before", folder.string(), what, why);
    return false;
  };
  try {
    const auto before = places_in(options_.output_dir);
    store::SealedFolder sealed(folder);
    write(sealed, trainer, state, recipe, log, report);
    sealed.seal(before.empty() ? 1 : before.back().serial + 1);
  } catch (const Error& e) {
    if (e.fault() != Fault::bad_input) throw;  // not the disk's
    return failed(e.problem().what, e.problem().found);
  } catch (const fs::filesystem_error& e) {
    return failed("cannot use " + e.path1().string(), e.code().message());
  }
  remove_old(state);
  return true;
}

void Checkpoints::write(store::SealedFolder& sealed, Trainer& trainer, const RunState& state, const Recipe& recipe, const TrainerLog& log,
                        const RunReport& report) {
  const fs::path& inside = sealed.inside();
  sealed.add(write_trained(inside, options_, setup_, trainer));
  std::vector<store::SafetensorsWriter::Declared> declared;
  if (loses_bits(setup_))
    for (const auto& t : trainer.model().trained()) declared.push_back({store::name_in_file(*t.spec), t.value.dtype, t.value.shape});
  for (const auto& s : trainer.states()) declared.push_back({s.name(), s.home.dtype, s.home.shape});
  store::SafetensorsWriter writer(inside / state_file, std::move(declared));
  if (loses_bits(setup_)) trainer.save([&](const store::ParamSpec&, Tensor piece) { writer.write(piece); });
  trainer.save_states([&](Tensor piece) { writer.write(piece); });
  sealed.add(writer.commit());
  sealed.add(log.write_into(inside, report));
  sealed.add(write_atomically(inside / run_file, to_json(state, recipe).dump(2) + "\n"));
}

void Checkpoints::remove_old(const RunState& state) {
  if (!options_.save_total_limit) return;
  auto places = places_in(options_.output_dir);
  std::erase_if(places, [](const Place& p) { return p.serial < 0; });  // not ours, or damaged: for a person to look at
  size_t keep = size_t(*options_.save_total_limit);
  if (options_.load_best_model_at_end && state.best_step && places.size() > 1) {
    // The best one goes last, but one: as in transformers it counts among those that are kept.
    const auto best = std::find_if(places.begin(), places.end() - 1, [&](const Place& p) { return p.step == state.best_step; });
    if (best != places.end() - 1) std::rotate(best, best + 1, places.end() - 1), keep = std::max<size_t>(keep, 2);
  }
  for (size_t i = 0; i + keep < places.size(); ++i) store::remove_sealed(places[i].folder);
}

}  // namespace thimble::train

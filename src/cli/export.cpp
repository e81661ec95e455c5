// export and quantize: a model folder with an adapter merged into it, in 16 bits or packed as transformers with bitsandbytes loads it; and how far
// its logits are from those of the base and adapter that it was made of.
#include <cmath>
#include <cstdio>
#include <map>

#include "base/philox.h"
#include "cli/commands.h"
#include "cli/run_plan.h"
#include "data/tokenizer.h"
#include "models/quantization.h"
#include "models/registry.h"
#include "ops/dora.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "serve/engine.h"
#include "store/model_writer.h"
#include "store/packed_files.h"
#include "store/weight_source.h"
#include "train/tuning.h"

namespace thimble::cli {
namespace {

struct Options {
  std::string model, adapter, out, type, shard = "5GB";
  bool compares = false;
};

// A base and what an adapter's files make of it; no adapter: the base.
struct Adapter {
  nn::ModelSpec model;  // with a head of its own where the adapter brings an embedding or a head
  nn::Method method;
  std::vector<store::ParamSpec> specs;
  std::map<std::string, float> scales;  // by matrix
  std::unique_ptr<store::AdapterFile> file;

  Adapter(const std::string& folder, const nn::ModelSpec& base) : model(base) {
    if (folder.empty()) return;
    auto tuning = train::tuning_of(base, store::read_adapter_config(folder), base.stored.format, true);
    model = std::move(tuning.model);
    method = std::move(tuning.method);
    const nn::LoraSpec& lora = method.lora;
    specs = nn::adapter_parameters(model, lora);
    for (int l = 0; l < int(model.layers.size()); ++l)
      for (int p = 0; p < nn::layer_param_count; ++p)
        if (lora.layers[l].on(p)) scales[nn::module_of(model, l, p) + ".weight"] = lora.layers[l].of[size_t(p)].scale;
    file = std::make_unique<store::AdapterFile>(folder, store::tensors_of_adapter(specs, nn::parameters(model, model.stored.format), tuning.adapter.modules_to_save));
  }
  const store::ParamSpec* find(const std::string& matrix, store::Role role) const {
    for (const auto& p : specs)
      if (p.name == matrix && p.role == role) return &p;
    return nullptr;
  }
};

// The weights of `folder` as the adapter has them.
struct Weights {
  std::unique_ptr<store::WeightSource> base, adapted;

  Weights(const fs::path& folder, const Adapter& adapter) : base(store::open_weights(folder)) {
    if (adapter.file) adapted = store::adapted_weights(*base, adapter.file.get());
  }
  const store::WeightSource& operator*() const { return adapted ? *adapted : *base; }
};

// One tensor of the files at a time: read as numbers, merged, packed. On a phantom it shows what memory that takes.
class Merger {
 public:
  Merger(comm::Rank& rank, const store::WeightSource& source, const Adapter& adapter) : rank_(rank), source_(source), adapter_(adapter) {}

  // f(the finished matrix); its bytes are gone afterwards.
  void with(const store::ParamSpec& p, const std::function<void(const quant::Weight&)>& f) {
    const Scope scope(rank_.memory);
    const auto take = [&](DType type, const Shape& shape) { return rank_.memory.take(Use::weights, "matrix", type, shape); };
    quant::Weight w{.format = p.format, .shape = p.shape};
    int count = 0;
    const auto parts = quant::parts_of(p.format, p.shape, p.dtype, count);
    for (int i = 0; i < count; ++i) w.parts[size_t(i)] = take(parts[size_t(i)].dtype, parts[size_t(i)].shape);
    const bool merged = adapter_.find(p.name, store::Role::lora_a) != nullptr;
    if (!merged && p.format == quant::FormatId::dense) {
      if (!rank_.is_phantom()) source_.read(p.name, 0, w.dense());
      return f(w);
    }
    const Tensor numbers = take(merged ? DType::f32 : p.dtype, p.shape);
    if (!rank_.is_phantom()) source_.read(p.name, 0, numbers);
    if (merged) add(numbers, p.name);
    quant::format(p.format).pack(rank_.stream, w, numbers);
    f(w);
  }

 private:
  // w (N, K) += scale * B . A; of DoRA its rows then have the adapter's magnitudes.
  void add(Tensor w, const std::string& matrix) {
    const Scope scope(rank_.memory);
    const auto read = [&](store::Role role) {
      const store::ParamSpec& p = *adapter_.find(matrix, role);
      const Tensor t = rank_.memory.take(Use::adapters, "adapter", DType::f32, p.shape);
      if (!rank_.is_phantom()) adapter_.file->read(p, t);
      return t;
    };
    const Tensor a = read(store::Role::lora_a), b = read(store::Role::lora_b);
    ops::matmul(rank_.stream, {.y = w, .a = b, .b = a, .scale = adapter_.scales.at(matrix), .c = w, .name = "merge"});
    if (!adapter_.method.lora.dora) return;
    const Tensor magnitude = read(store::Role::lora_magnitude), squares = rank_.memory.take(Use::adapters, "squares of rows", DType::f32, magnitude.shape);
    ops::row_squares(rank_.stream, squares, {.format = quant::FormatId::dense, .shape = w.shape, .parts = {w}}, w.dtype);
    if (rank_.is_phantom()) return;
    for (int64_t n = 0; n < w.shape[0]; ++n) {
      const float factor = magnitude.get<float>()[n] / std::sqrt(squares.get<float>()[n]);
      for (int64_t k = 0; k < w.shape[1]; ++k) w.get<float>()[n * w.shape[1] + k] *= factor;
    }
  }

  comm::Rank& rank_;
  const store::WeightSource& source_;
  const Adapter& adapter_;
};

int write_weights(const Options& o, const Adapter& adapter, quant::FormatId format, int64_t shard_bytes) {
  const nn::ModelSpec& spec = adapter.model;
  const auto parameters = nn::parameters(spec, format);
  const auto table = store::as_files_hold(parameters);
  const Weights weights(o.model, adapter);
  const store::WeightSource& source = *weights;
  source.check_table(nn::parameters(spec, spec.stored.format));
  const auto device = cpu_device();
  const auto phantom = phantom_device(device->spec());
  comm::Rank dry(*phantom, comm::boundless);
  Merger rehearsal(dry, source, adapter);
  table.for_each([&](const store::ParamSpec& p) { rehearsal.with(p, [](const auto&) {}); });
  const int64_t peak = dry.ledger.peak(Tier::device);
  if (peak > available_bytes())
    throw Error(Fault::does_not_fit, {.what = "the largest matrix does not fit memory", .where = o.model, .expected = human_bytes(available_bytes()), .found = human_bytes(peak)});
  comm::Rank rank(*device, {peak, 0, 0});
  Merger merger(rank, source, adapter);
  std::vector<store::SafetensorsWriter::Declared> declared;
  table.for_each([&](const store::ParamSpec& p) {
    if (p.format == quant::FormatId::dense) declared.push_back({p.name, p.dtype, p.shape});
    else
      for (auto& d : store::declare_packed(p.name, p.format, p.shape)) declared.push_back(std::move(d));
  });
  store::ModelWriter writer(o.out, std::move(declared), shard_bytes);
  table.for_each([&](const store::ParamSpec& p) {
    merger.with(p, [&](const quant::Weight& w) {
      if (p.format == quant::FormatId::dense) writer.write(w.dense());
      else store::fill_packed(w, spec.dtype, [&](const Tensor& t) { writer.write(t); });
    });
  });
  return writer.commit();
}

// What is compared: a text in the model's tokens, or any tokens where there is no tokenizer that fits.
std::vector<int32_t> sample_tokens(const fs::path& folder, int64_t vocab) {
  constexpr std::string_view text = "The sea was quiet that morning. A boat lay on the sand, and beside it an old man mended his net, as he had done for forty years. "
                                    "He asked: \"What is 12 + 30?\" The girl thought for a moment and said that it was 42.";
  std::vector<int32_t> ids;
  if (fs::exists(folder / "tokenizer.json")) ids = data::Tokenizer::open(folder)->encode(std::string(text));
  if (std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return id >= vocab; })) ids.clear();
  Draws draws{1, 2, 3};
  if (ids.empty())
    for (int i = 0; i < 64; ++i) ids.push_back(int32_t(draws.below(uint64_t(vocab))));
  return ids;
}

std::vector<float> logits_of(const fs::path& folder, const Adapter& adapter, const std::vector<int32_t>& ids) {
  DeviceSpec spec = machine("cpu", {});
  spec.compute = DType::f32;  // on every processor: what bf16 rounds off would hide what the merge did
  serve::EngineShape shape{.model = adapter.model, .method = adapter.method, .context = int64_t(ids.size()) + 1, .prefill_chunk = int64_t(ids.size())};
  shape.method.format = shape.model.stored.format;
  const auto outcome = serve::Engine::rehearse(spec, shape);
  if (outcome.device() + outcome.ram() > available_bytes())
    throw Error(Fault::does_not_fit, {.what = "the model does not fit memory whole, to compare its logits", .where = folder.string(), .expected = human_bytes(available_bytes()),
                                      .found = human_bytes(outcome.device() + outcome.ram()), .fix = "--no-compare: the folder is written all the same"});
  const auto device = open_device(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  serve::Engine engine(rank, shape);
  const Weights weights(folder, adapter);
  (*weights).check_table(engine.model().weights().table());
  engine.load(&*weights);
  if (adapter.file) engine.load_adapters([&](const store::ParamSpec& p, Tensor to) { adapter.file->read(p, to); });
  const Tensor logits = engine.logits(ids);
  return {logits.get<float>(), logits.get<float>() + logits.count()};
}

void print_drift(const Options& o, const Adapter& adapter) {
  const auto ids = sample_tokens(o.model, adapter.model.vocab);
  const auto before = logits_of(o.model, adapter, ids), after = logits_of(o.out, Adapter("", models::read_model(o.out)), ids);
  const auto v = size_t(adapter.model.vocab);
  double most = 0, furthest = 0, divergence = 0;
  size_t same = 0;
  for (size_t t = 0; t < ids.size(); ++t) {
    const float *p = &before[t * v], *q = &after[t * v];
    const auto log_sum = [&](const float* x) {
      const double top = *std::max_element(x, x + v);
      double sum = 0;
      for (size_t i = 0; i < v; ++i) sum += std::exp(x[i] - top);
      return top + std::log(sum);
    };
    const double lp = log_sum(p), lq = log_sum(q);
    for (size_t i = 0; i < v; ++i) {
      most = std::max(most, double(std::abs(p[i])));
      furthest = std::max(furthest, double(std::abs(p[i] - q[i])));
      divergence += std::exp(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
    }
    same += std::max_element(p, p + v) - p == std::max_element(q, q + v) - q;
  }
  std::printf("drift over %zu tokens: logits at most %.2e of the largest, divergence %.2e nats a token, the likeliest token the same at %zu of %zu\n", ids.size(), furthest / most,
              divergence / double(ids.size()), same, ids.size());
}

int write_model(const Options& o) {
  const fs::path from = o.model, to = o.out;
  if (fs::exists(to / "config.json")) throw Error(Fault::usage, {.what = "the folder holds a model already", .where = o.out, .fix = "name another --out"});
  const int64_t shard_bytes = parse_bytes(o.shard, "--max-shard-size");
  const auto spec = models::read_model(from);
  const auto format = quant::format(o.type).id;
  const Adapter adapter(o.adapter, spec);
  const int shards = write_weights(o, adapter, format, shard_bytes);
  Json config = parse_json(read_text(from / "config.json"), (from / "config.json").string());
  config.erase("quantization_config");
  if (adapter.model.tied_head != spec.tied_head) config["tie_word_embeddings"] = adapter.model.tied_head;
  if (format != quant::FormatId::dense)
    config["quantization_config"] = models::quantization_config(format, spec.dtype, format == spec.stored.format ? spec.stored.kept : std::vector<std::string>{});
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"})
    if (fs::exists(from / name)) copy_atomically(from / name, to / name);
  write_atomically(to / "config.json", config.dump(2) + "\n");  // last: a folder with a config is whole
  int64_t bytes = 0;
  for (const auto& file : fs::directory_iterator(to)) bytes += file.path().extension() == ".safetensors" ? int64_t(file.file_size()) : 0;
  std::printf("%s: %s in %d file%s, %s\n", o.out.c_str(), format == quant::FormatId::dense ? spec.dtype.c_str() : o.type.c_str(), shards, shards == 1 ? "" : "s", human_bytes(bytes).c_str());
  if (o.compares) print_drift(o, adapter);
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Run& run) {
  const auto add = [&](const char* name, const char* about, const Options& defaults) {
    const auto o = std::make_shared<Options>(defaults);
    auto* c = app.add_subcommand(name, about);
    c->add_option("model", o->model, "model folder, 16-bit or packed")->required();
    c->add_option("--out", o->out, "folder to write")->required();
    c->add_option("--max-shard-size", o->shard, "bytes of a file at most, such as 5GB");
    c->callback([=, &run] { run = [=] { return write_model(*o); }; });
    return std::pair{c, o};
  };
  const auto [quantize, q] = add("quantize", "a 4-bit or 8-bit copy of a model folder that transformers with bitsandbytes loads", {.type = "nf4_dq"});
  quantize->add_option("--type", q->type, "nf4, nf4_dq or int8")->check(CLI::IsMember({"nf4", "nf4_dq", "int8"}));
  const auto [exports, e] = add("export", "a model folder with an adapter merged into it, and how far its logits are from theirs", {.type = "dense", .compares = true});
  exports->add_option("--adapter", e->adapter, "folder of a PEFT adapter");
  exports->add_option("--type", e->type, "dense (the config's type), nf4, nf4_dq or int8")->check(CLI::IsMember({"dense", "nf4", "nf4_dq", "int8"}));
  exports->add_flag("!--no-compare", e->compares, "do not compute logits before and after");
}

}  // namespace thimble::cli

// init and inspect: model folders made and looked at.
#include <cstdio>

#include "cli/commands.h"
#include "cli/run_plan.h"
#include "models/registry.h"
#include "store/odd_numbers.h"
#include "store/safetensors.h"
#include "store/weight_source.h"

namespace thimble::cli {
namespace {

int init(const std::string& config, const std::string& out, uint64_t seed, const std::string& dtype, double deviation) {
  const fs::path from = config, to = out, file = fs::is_directory(from) ? from / "config.json" : from;
  if (fs::exists(to / "model.safetensors"))
    throw Error(Fault::usage, {.what = "the folder holds a model already", .where = out, .fix = "name another --out"});
  nn::ModelSpec spec = models::read_model(file);
  spec.stored = {};
  if (!dtype.empty()) spec.dtype = dtype;
  const auto table = store::as_files_hold(nn::parameters(spec, quant::FormatId::dense));
  const auto source = store::random_weights(table, seed, float(deviation));
  fs::create_directories(to);
  std::vector<store::SafetensorsWriter::Declared> declared;
  table.for_each([&](const store::ParamSpec& p) { declared.push_back({p.name, p.dtype, p.shape}); });
  store::SafetensorsWriter writer(to / "model.safetensors", std::move(declared));
  std::vector<std::byte> rows;
  table.for_each([&](const store::ParamSpec& p) {
    const int64_t step = std::max<int64_t>(1, (int64_t{16} << 20) / p.shape.row());
    for (int64_t row = 0; row < p.shape.rows(); row += step) {
      Tensor piece = Tensor{nullptr, p.dtype, p.shape}.rows(row, std::min(step, p.shape.rows() - row));
      rows.resize(size_t(piece.bytes()));
      piece.data = rows.data();
      source->read(p.name, row, piece);
      writer.write(piece);
    }
  });
  writer.commit();
  write_atomically(to / "config.json", models::config_of(spec).dump(2) + "\n");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    const auto beside = file.parent_path() / name;
    if (fs::exists(beside) && !fs::exists(to / name)) fs::copy_file(beside, to / name);
  }
  std::printf("%s: %.3g parameters in %s, seed %llu\n", out.c_str(), double(table.parameters()), spec.dtype.c_str(), static_cast<unsigned long long>(seed));
  return 0;
}

int inspect(const std::string& model) {
  const auto spec = models::read_model(model);
  const auto& l = spec.layers.front();
  const auto dense = nn::parameters(spec, quant::FormatId::dense);
  std::printf("%s: %zu layers, hidden %lld, %lld heads of %lld (%lld key/value), ffn %lld, vocabulary %lld%s, %s\n", spec.family.c_str(), spec.layers.size(),
              static_cast<long long>(spec.hidden), static_cast<long long>(l.heads), static_cast<long long>(l.head_dim), static_cast<long long>(l.kv_heads),
              static_cast<long long>(l.ffn), static_cast<long long>(spec.vocab), spec.tied_head ? " (tied head)" : "", spec.dtype.c_str());
  std::printf("%.4g parameters%s%s\n", double(dense.parameters()), spec.stored.format == quant::FormatId::dense ? "" : ", stored as ",
              spec.stored.format == quant::FormatId::dense ? "" : std::string(quant::format(spec.stored.format).name).c_str());
  for (const auto& f : quant::formats()) {
    const auto table = nn::parameters(spec, f.id);
    int64_t layers = 0;
    for (const auto& layer : table.layers) layers += store::slab_bytes(layer);
    std::printf("%-8s %12s layers (%s each), %s outside\n", std::string(f.name).c_str(), human_bytes(layers).c_str(),
                human_bytes(layers / int64_t(table.layers.size())).c_str(), human_bytes(store::slab_bytes(table.outside)).c_str());
  }
  return 0;
}

// Reads all weights once.
int check_tensors(const std::string& model) {
  const auto source = store::open_weights(model);
  const auto spec = models::read_model(model);
  source->check_table(nn::parameters(spec, spec.stored.format));
  std::string first;
  int64_t tensors = 0, damaged = 0, subnormal = 0;
  store::OddNumbers of_first;
  source->for_each_tensor([&](const store::SafetensorsFile& file, const store::TensorInfo& t) {
    const store::OddNumbers odd = store::odd_numbers(file, t);
    ++tensors;
    subnormal += odd.subnormal > 0;
    damaged += odd.damaged();
    if (odd.damaged() && first.empty()) first = file.where(t.name), of_first = odd;
  });
  if (damaged > 0)
    throw Error(Fault::bad_input, {.what = "weights are not numbers", .where = first, .expected = "finite numbers",
                                   .found = fmt::format("{} NaN and {} infinite; {} of {} tensors hold such", of_first.nan, of_first.infinite, damaged, tensors),
                                   .fix = "download the folder again, or convert the model again in a type that holds its numbers (bfloat16 rather than float16)"});
  std::printf("all numbers of %lld tensors are finite; %lld tensors hold subnormal ones\n", static_cast<long long>(tensors), static_cast<long long>(subnormal));
  return 0;
}

}  // namespace

void add_folders(CLI::App& app, Run& run) {
  struct Options { std::string from, out, dtype; uint64_t seed = 0; double deviation = 0.02; bool checks = false; };
  const auto o = std::make_shared<Options>();
  auto* c = app.add_subcommand("init", "a model folder of seeded random weights, of any shape");
  c->add_option("config", o->from, "config.json, or a folder that holds one")->required();
  c->add_option("--out", o->out, "folder to write")->required();
  c->add_option("--seed", o->seed);
  c->add_option("--dtype", o->dtype, "of the file; the config's if not given")->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  c->add_option("--std", o->deviation, "standard deviation of matrices and embeddings");
  c->callback([=, &run] { run = [=] { return init(o->from, o->out, o->seed, o->dtype, o->deviation); }; });
  const auto i = std::make_shared<Options>();
  auto* look = app.add_subcommand("inspect", "what a model folder or config.json holds, and its size in each format");
  look->add_option("model", i->from)->required();
  look->add_flag("--check-tensors", i->checks, "read all weights and say whether one is NaN or infinite");
  look->callback([=, &run] { run = [=] { return inspect(i->from) + (i->checks ? check_tensors(i->from) : 0); }; });
}

}  // namespace thimble::cli

// quantize: a model folder with its layers' matrices in NF4, in the layout of transformers with bitsandbytes (QuantState.as_dict, packed).
#include <cstdio>
#include <cstring>

#include "cli/commands.h"
#include "cli/run_plan.h"
#include "models/registry.h"
#include "quant/dynamic8.h"
#include "quant/nf4.h"
#include "store/safetensors.h"
#include "store/weight_source.h"

namespace thimble::cli {
namespace {

struct Options {
  std::string from, out, type = "nf4_dq";
};

// One matrix at a time through an arena that holds it dense and packed.
class Packer {
 public:
  Packer(const store::WeightSource& source, const store::ParamTable& table) : source_(source), device_(cpu_device()) {
    int64_t most = 0;
    table.for_each([&](const store::ParamSpec& p) {
      most = std::max(most, aligned(p.shape.count() * size_of(p.dtype)) + 2 * aligned(p.shape.count() * 4 / 32) + quant::bytes_of(p.format, p.shape, p.dtype));
    });
    rank_ = std::make_unique<comm::Rank>(*device_, comm::Capacity{most + (1 << 20), 0, 0});
  }
  // Calls f with the packed (or plain) matrix; its bytes are gone afterwards.
  void with(const store::ParamSpec& p, const std::function<void(const quant::Weight&)>& f) {
    const Scope scope(rank_->memory);
    quant::Weight w{.format = p.format, .shape = p.shape};
    int count = 0;
    const auto parts = quant::parts_of(p.format, p.shape, p.dtype, count);
    for (int i = 0; i < count; ++i) w.parts[size_t(i)] = rank_->memory.take(Use::weights, "part", parts[size_t(i)].dtype, parts[size_t(i)].shape);
    const Tensor dense = p.format == quant::FormatId::dense ? w.dense() : rank_->memory.take(Use::scratch, "matrix", p.dtype, p.shape);
    source_.read(p.name, 0, dense);
    if (p.format != quant::FormatId::dense) quant::format(p.format).pack(rank_->stream, w, dense);
    f(w);
  }

 private:
  const store::WeightSource& source_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<comm::Rank> rank_;
};

std::string state_text(const store::ParamSpec& p, const std::string& dtype, const quant::Weight& w) {
  Json s = {{"quant_type", "nf4"}, {"blocksize", quant::nf4_block}, {"dtype", dtype}, {"shape", {p.shape[0], p.shape[1]}}};
  if (p.format == quant::FormatId::nf4_dq) {
    s["nested_blocksize"] = quant::nested_block;
    s["nested_dtype"] = "float32";
    s["nested_offset"] = *w.parts[3].get<float>();
  }
  return s.dump();
}

Tensor text_tensor(const std::string& s) { return {const_cast<char*>(s.data()), DType::u8, {int64_t(s.size())}}; }
Tensor map_tensor(const float* values, int64_t n) { return {const_cast<float*>(values), DType::f32, {n}}; }

int quantize(const Options& o) {
  const fs::path from = o.from, to = o.out;
  if (fs::exists(to / "config.json")) throw Error(Fault::usage, {.what = "the folder holds a model already", .where = o.out, .fix = "name another --out"});
  const auto spec = models::read_model(from);
  const auto format = quant::format(o.type).id;
  const auto table = store::as_files_hold(nn::parameters(spec, format));
  const auto source = store::open_weights(from);
  source->check_table(table);
  Packer packer(*source, table);
  const bool nested = format == quant::FormatId::nf4_dq;

  std::map<std::string, std::string> states;
  std::vector<store::SafetensorsWriter::Declared> declared;
  const auto visit = [&](const store::ParamSpec& p, const quant::Weight& w, const auto& put) {
    if (p.format == quant::FormatId::dense) return put("", w.dense());
    put("", w.parts[0].view({w.parts[0].count(), 1}));
    put(".absmax", w.parts[1]);
    put(".quant_map", map_tensor(quant::nf4_values.data(), 16));
    if (nested) {
      put(".nested_absmax", w.parts[2]);
      put(".nested_quant_map", map_tensor(quant::signed_map().values().data(), 256));
    }
    put(".quant_state.bitsandbytes__nf4", text_tensor(states.at(p.name)));
  };
  // Twice over the matrices: the header holds each state's length, and a state holds the offset that packing finds.
  table.for_each([&](const store::ParamSpec& p) {
    packer.with(p, [&](const quant::Weight& w) {
      if (p.format != quant::FormatId::dense) states[p.name] = state_text(p, spec.dtype, w);
      visit(p, w, [&](const char* suffix, const Tensor& t) { declared.push_back({p.name + suffix, t.dtype, t.shape}); });
    });
  });
  fs::create_directories(to);
  store::SafetensorsWriter writer(to / "model.safetensors", std::move(declared));
  table.for_each([&](const store::ParamSpec& p) {
    packer.with(p, [&](const quant::Weight& w) { visit(p, w, [&](const char*, const Tensor& t) { writer.write(t); }); });
  });
  writer.commit();
  Json config = parse_json(read_text(from / "config.json"), (from / "config.json").string());
  config["quantization_config"] = {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}, {"load_in_8bit", false},
                                   {"_load_in_4bit", true}, {"_load_in_8bit", false},
                                   {"bnb_4bit_quant_type", "nf4"}, {"bnb_4bit_use_double_quant", nested}, {"bnb_4bit_compute_dtype", "bfloat16"},
                                   {"bnb_4bit_quant_storage", "uint8"}, {"llm_int8_threshold", 6.0}, {"llm_int8_skip_modules", nullptr},
                                   {"llm_int8_enable_fp32_cpu_offload", false}, {"llm_int8_has_fp16_weight", false}};
  write_atomically(to / "config.json", config.dump(2) + "\n");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    if (fs::exists(from / name)) fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing);
  std::printf("%s: %s in %s, %s\n", o.out.c_str(), o.type.c_str(), "model.safetensors", human_bytes(int64_t(fs::file_size(to / "model.safetensors"))).c_str());
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Run& run) {
  const auto o = std::make_shared<Options>();
  auto* c = app.add_subcommand("quantize", "a 4-bit copy of a model folder that transformers with bitsandbytes loads");
  c->add_option("model", o->from, "model folder")->required();
  c->add_option("--out", o->out, "folder to write")->required();
  c->add_option("--type", o->type, "nf4 or nf4_dq")->check(CLI::IsMember({"nf4", "nf4_dq"}));
  c->callback([=, &run] { run = [=] { return quantize(*o); }; });
}

}  // namespace thimble::cli

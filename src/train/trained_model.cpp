// Values leave the device in pieces and go straight into the file: no tensor is ever whole in host memory.
#include "train/trained_model.h"

#include "base/json.h"
#include "store/adapter_files.h"

namespace thimble::train {
namespace {

std::vector<WrittenFile> write_adapter(const fs::path& folder, const TrainOptions& o, const Setup& setup, Trainer& trainer) {
  store::AdapterConfig config{.rank = o.lora_rank,
                              .alpha = o.lora_alpha.value_or(2.0 * double(o.lora_rank)),
                              .rslora = o.use_rslora,
                              .base_model = o.model_name_or_path};
  for (int p = 0; p < nn::layer_param_count; ++p)
    if (const std::string_view leaf = nn::leaf_names[p]; setup.method.lora.on(p))
      config.targets.emplace_back(leaf.substr(leaf.rfind('.') + 1));
  return store::write_adapter(folder, config, trainer.model().adapters()->specs(), [&](const auto& put) { trainer.save(put); });
}

// The base's, but of plain weights, whatever the base's files hold.
WrittenFile write_config(const fs::path& from, const fs::path& to) {
  Json config = parse_json(read_text(from), from.string());
  if (!config.contains("quantization_config")) return copy_atomically(from, to);
  config.erase("quantization_config");
  return write_atomically(to, config.dump(2) + "\n");
}

std::vector<WrittenFile> write_model(const fs::path& folder, const TrainOptions& o, const Setup& setup, Trainer& trainer) {
  std::vector<store::SafetensorsWriter::Declared> declared;
  const DType dtype = nn::file_dtype(setup.model);
  store::as_files_hold(trainer.model().weights().table()).for_each([&](const store::ParamSpec& p) { declared.push_back({p.name, dtype, p.shape}); });
  store::SafetensorsWriter writer(folder / model_file, std::move(declared));
  std::vector<std::byte> converted;
  trainer.save([&](const store::ParamSpec&, Tensor piece) {
    if (dtype == DType::f32) return writer.write(piece);
    converted.resize(size_t(piece.count() * size_of(dtype)));
    const Tensor to{converted.data(), dtype, piece.shape};
    visit_float(dtype, [&]<class T>(T) {
      for (int64_t i = 0; i < piece.count(); ++i) to.get<T>()[i] = T(piece.get<float>()[i]);
    });
    writer.write(to);
  });
  return {writer.commit(), write_config(base_folder(o) / "config.json", folder / "config.json")};
}

}  // namespace

fs::path base_folder(const TrainOptions& o) {
  const fs::path model = o.model_name_or_path;
  return fs::is_directory(model) ? model : model.parent_path();
}

bool loses_bits(const Setup& setup) { return setup.method.trains_weights && (nn::file_dtype(setup.model) != DType::f32 || setup.model.fused_files); }

std::vector<WrittenFile> write_trained(const fs::path& folder, const TrainOptions& o, const Setup& setup, Trainer& trainer) {
  auto files = setup.method.trains_weights ? write_model(folder, o, setup, trainer) : write_adapter(folder, o, setup, trainer);
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"})
    if (fs::exists(base_folder(o) / name)) files.push_back(copy_atomically(base_folder(o) / name, folder / name));
  return files;
}

}  // namespace thimble::train

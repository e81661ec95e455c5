// Values leave the device in pieces and go straight into the file: no tensor is ever whole in host memory.
#include "train/trained_model.h"

#include "base/json.h"
#include "store/adapter_files.h"

namespace thimble::train {
namespace {

std::vector<WrittenFile> write_adapter(const fs::path& folder, const Setup& setup, Trainer& trainer) {
  std::vector<store::ParamSpec> specs;
  for (const auto& t : trainer.model().trained()) specs.push_back(*t.spec);
  return store::write_adapter(folder, setup.adapter, specs, [&](const auto& put) { trainer.save(put); });
}

// The base's, but of plain weights, whatever the base's files hold.
WrittenFile write_config(const fs::path& from, const fs::path& to) {
  Json config = parse_json(read_text(from), from.string());
  if (!config.contains("quantization_config")) return copy_atomically(from, to);
  config.erase("quantization_config");
  return write_atomically(to, config.dump(2) + "\n");
}

// What was trained first, then what stayed as the base's files have it.
std::vector<WrittenFile> write_model(const fs::path& folder, const TrainOptions& o, const Setup& setup, Trainer& trainer) {
  std::vector<store::SafetensorsWriter::Declared> declared;
  std::vector<store::ParamSpec> frozen;
  const DType dtype = nn::file_dtype(setup.model);
  store::as_files_hold(trainer.model().weights().table()).for_each([&](const store::ParamSpec& p) {
    if (p.trained) declared.push_back({p.name, dtype, p.shape});
    else frozen.push_back(p);
  });
  for (const auto& p : frozen) declared.push_back({p.name, dtype, p.shape});
  store::SafetensorsWriter writer(folder / model_file, std::move(declared));
  std::vector<std::byte> converted;
  trainer.save([&](const store::ParamSpec&, Tensor piece) {
    if (dtype == piece.dtype) return writer.write(piece);
    converted.resize(size_t(piece.count() * size_of(dtype)));
    const Tensor to{converted.data(), dtype, piece.shape};
    visit_float(dtype, [&]<class T>(T) {
      visit_float(piece.dtype, [&]<class P>(P) {
        for (int64_t i = 0; i < piece.count(); ++i) to.get<T>()[i] = T(float(piece.get<P>()[i]));
      });
    });
    writer.write(to);
  });
  const auto base = frozen.empty() ? nullptr : store::open_weights(base_folder(o));
  for (const auto& p : frozen) {
    constexpr int64_t piece_bytes = int64_t{1} << 20;
    const int64_t step = std::max<int64_t>(1, piece_bytes / std::max<int64_t>(1, p.shape.row() * size_of(dtype)));
    for (int64_t row = 0; row < p.shape.rows(); row += step) {
      const int64_t rows = std::min(step, p.shape.rows() - row);
      converted.resize(size_t(rows * p.shape.row() * size_of(dtype)));
      const Tensor to{converted.data(), dtype, p.shape.rank() == 1 ? Shape{rows} : Shape{rows, p.shape[1]}};
      base->read(p.name, row, to);
      writer.write(to);
    }
  }
  return {writer.commit(), write_config(base_folder(o) / "config.json", folder / "config.json")};
}

}  // namespace

fs::path base_folder(const TrainOptions& o) {
  const fs::path model = o.model_name_or_path;
  return fs::is_directory(model) ? model : model.parent_path();
}

bool loses_bits(const Setup& setup) {
  const DType file = nn::file_dtype(setup.model);
  return !setup.method.lora.any() && ((file != DType::f32 && file != setup.method.weights.dtype) || setup.model.fused_files);
}

std::vector<WrittenFile> write_trained(const fs::path& folder, const TrainOptions& o, const Setup& setup, Trainer& trainer) {
  auto files = setup.method.lora.any() ? write_adapter(folder, setup, trainer) : write_model(folder, o, setup, trainer);
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"})
    if (fs::exists(base_folder(o) / name)) files.push_back(copy_atomically(base_folder(o) / name, folder / name));
  return files;
}

}  // namespace thimble::train

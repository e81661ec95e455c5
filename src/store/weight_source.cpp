// Conversion goes through f32, exact from both 16-bit types; shards must lie in the folder and hold what the index says.
#include "store/weight_source.h"

#include <map>
#include <optional>

#include "base/json.h"
#include "base/philox.h"
#include "base/threads.h"
#include "store/packed_files.h"
#include "store/safetensors.h"

namespace thimble::store {
namespace {

class SafetensorsFolder final : public WeightSource {
 public:
  explicit SafetensorsFolder(const fs::path& folder) : folder_(folder) {
    const auto index = folder / "model.safetensors.index.json";
    if (fs::exists(folder / "model.safetensors")) {
      files_.push_back(std::make_unique<SafetensorsFile>(folder / "model.safetensors"));
      for (const auto& t : files_.back()->tensors()) where_[t.name] = 0;
    } else if (fs::exists(index)) {
      read_index(index);
    } else {
      const bool pickle = fs::exists(folder / "pytorch_model.bin") || fs::exists(folder / "pytorch_model.bin.index.json");
      throw Error(Fault::bad_input, {.what = "no weights in a model folder",
                                     .where = folder.string(),
                                     .expected = "model.safetensors, or model.safetensors.index.json and its shards",
                                     .found = pickle ? "pickle files (.bin), which can run code when opened" : "neither",
                                     .fix = pickle ? "convert them: transformers' save_pretrained(..., safe_serialization=True)"
                                                   : "name the folder that holds config.json and the weights"});
    }
  }
  bool has(const std::string& name) const override { return where_.contains(name); }
  void read(const std::string& name, int64_t row, Tensor to) const override {
    const TensorInfo& all = info(name);
    const bool codes = is_packed(locate_, name);
    const Shape shape = codes ? packed(name).shape() : all.shape;
    bool agrees = shape.rank() == to.shape.rank() && shape.rank() >= 1 && row + to.shape[0] <= shape[0];
    for (int i = 1; agrees && i < to.shape.rank(); ++i) agrees = shape[i] == to.shape[i];
    if (!agrees) wrong_shape(name, "rows of " + to_string(to.shape), shape);
    if (codes) packed(name).read_rows(row, to);
    else file(name).read(all, row * shape.row(), to);
  }
  void read_part(const std::string& name, int part, int64_t first, Tensor to) const override { packed(name).read_part(part, first, to); }
  void check_table(const ParamTable& table) const override {
    table.for_each([&](const ParamSpec& p) {
      const std::string& name = p.file_name();
      const TensorInfo& t = info(name);
      const bool codes = p.shape.rank() == 2 && is_packed(locate_, name);
      const Shape shape = codes ? packed(name).shape() : t.shape;
      if (!(shape == p.file_shape())) wrong_shape(name, to_string(p.file_shape()), shape);
      if (p.comes_packed() && (!codes || packed(name).format() != p.format))
        throw Error(Fault::bad_input, {.what = "a matrix is not packed as the config says",
                                       .where = file(name).where(name),
                                       .expected = fmt::format("{}, by quantization_config", quant::format(p.format).name),
                                       .found = codes ? std::string(quant::format(packed(name).format()).name) : t.type,
                                       .fix = "check that config.json belongs to these weights"});
      if (!codes && t.type != "F32" && t.type != "BF16" && t.type != "F16")
        throw Error(Fault::bad_input, {.what = "a parameter holds no numbers that are read here",
                                       .where = file(name).where(name),
                                       .expected = "F32, BF16 or F16",
                                       .found = t.type,
                                       .fix = "name the 16-bit model"});
    });
  }

 private:
  const SafetensorsFile& file(const std::string& name) const { return *files_[where_.at(name)]; }
  const TensorInfo& info(const std::string& name) const {
    if (!where_.contains(name))
      throw Error(Fault::bad_input, {.what = "a parameter is missing",
                                     .where = folder_.string(),
                                     .expected = name,
                                     .found = fmt::format("{} other tensors", where_.size()),
                                     .fix = "check that all shards were downloaded, and that config.json belongs to these weights"});
    return *file(name).find(name);
  }
  // The matrix asked for last stays open, since its rows and parts are asked for piece by piece.
  const PackedMatrix& packed(const std::string& name) const {
    if (!open_ || open_name_ != name) open_.emplace(locate_, name), open_name_ = name;
    return *open_;
  }
  [[noreturn]] void wrong_shape(const std::string& name, std::string expected, const Shape& found) const {
    throw Error(Fault::bad_input, {.what = "a tensor has another shape than the config says",
                                   .where = file(name).where(name),
                                   .expected = std::move(expected),
                                   .found = to_string(found),
                                   .fix = "check that config.json belongs to these weights"});
  }
  void read_index(const fs::path& index) {
    const Json json = parse_json(read_text(index), index.string(), 8);
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object())
      fail_field(index.string(), "weight_map", "an object from tensor to file", map == json.end() ? nullptr : &*map);
    std::map<std::string, size_t> opened;
    for (const auto& [name, value] : map->items()) {
      const auto file = read_as<std::string>(value, "weight_map." + name.substr(0, 100), index.string());
      if (file.empty() || fs::path(file).filename() != file || file == ".." || file == ".")
        fail_field(index.string(), "weight_map", "file names inside the folder", &value);
      if (!opened.contains(file)) {
        if (!fs::exists(folder_ / file))
          throw Error(Fault::bad_input, {.what = "a shard is missing",
                                         .where = folder_.string(),
                                         .expected = file,
                                         .found = "an index that names it for '" + name.substr(0, 100) + "'",
                                         .fix = "download the shard"});
        opened[file] = files_.size();
        files_.push_back(std::make_unique<SafetensorsFile>(folder_ / file));
      }
      if (!files_[opened[file]]->find(name))
        throw Error(Fault::bad_input, {.what = "a shard does not hold what the index says",
                                       .where = (folder_ / file).string(),
                                       .expected = name.substr(0, 1024),
                                       .found = "no tensor of this name",
                                       .fix = "download the shard again"});
      where_[name] = opened[file];
    }
  }
  fs::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, size_t> where_;
  const Locate locate_ = [this](const std::string& name) {
    const auto at = where_.find(name);
    return at == where_.end() ? Located{} : Located{files_[at->second].get(), files_[at->second]->find(name)};
  };
  mutable std::optional<PackedMatrix> open_;
  mutable std::string open_name_;
};

uint64_t hash_of(std::string_view s) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : s) h = (h ^ uint8_t(c)) * 0x100000001b3u;
  return h;
}

float new_norm(const ParamSpec& p) { return p.about_zero ? 0.0f : 1.0f; }

class RandomWeights final : public WeightSource {
 public:
  RandomWeights(const ParamTable& table, uint64_t seed, float std) : seed_(seed), std_(std) {
    table.for_each([&](const ParamSpec& p) { specs_[p.file_name()] = p; });
  }
  bool has(const std::string& name) const override { return specs_.contains(name); }
  void read(const std::string& name, int64_t row, Tensor to) const override {
    const ParamSpec& p = specs_.at(name);
    const auto stream = hash_of(name);
    visit_float(to.dtype, [&]<class T>(T) {
      T* out = to.get<T>();
      const int64_t first = row * to.shape.row();
      parallel_for(to.count(), 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          out[i] = T(p.role == Role::norm ? new_norm(p) : std_ * normal_at(seed_, stream, uint64_t(first + i)));
      });
    });
  }

 private:
  std::map<std::string, ParamSpec> specs_;
  uint64_t seed_;
  float std_;
};

// Millions of numbers, generated once and read again from another place for each matrix: as good as random for a measurement, and fast.
class RepeatedWeights final : public WeightSource {
 public:
  RepeatedWeights(const ParamTable& table, uint64_t seed, float std) {
    table.for_each([&](const ParamSpec& p) { specs_[p.file_name()] = p; });
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = bf16(std * normal_at(seed, 1, i));
  }
  bool has(const std::string& name) const override { return specs_.contains(name); }
  void read(const std::string& name, int64_t row, Tensor to) const override {
    const ParamSpec& p = specs_.at(name);
    const auto first = hash_of(name) + uint64_t(row * to.shape.row());
    visit_float(to.dtype, [&]<class T>(T) {
      T* out = to.get<T>();
      parallel_for(to.count(), 1 << 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = p.role == Role::norm ? T(new_norm(p)) : T(float(values_[(first + uint64_t(i)) % values_.size()]));
      });
    });
  }

 private:
  std::map<std::string, ParamSpec> specs_;
  std::vector<bf16> values_ = std::vector<bf16>(size_t{1} << 22);
};

}  // namespace

void WeightSource::read_part(const std::string& name, int, int64_t, Tensor) const { throw Error("weights that are made on the spot come as numbers, not packed: " + name); }

std::unique_ptr<WeightSource> repeated_random_weights(const ParamTable& table, uint64_t seed, float std) { return std::make_unique<RepeatedWeights>(table, seed, std); }
std::unique_ptr<WeightSource> open_weights(const fs::path& folder) { return std::make_unique<SafetensorsFolder>(folder); }
std::unique_ptr<WeightSource> random_weights(const ParamTable& table, uint64_t seed, float std) {
  return std::make_unique<RandomWeights>(table, seed, std);
}

}  // namespace thimble::store

// Conversion goes through f32, exact from both 16-bit types; shards must lie in the folder and hold what the index says.
#include "store/weight_source.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>

#include "base/json.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/threads.h"
#include "store/packed_files.h"
#include "store/safetensors.h"

namespace thimble::store {
namespace {

constexpr int64_t longest_index = int64_t{256} << 20;

class SafetensorsFolder final : public WeightSource {
 public:
  explicit SafetensorsFolder(const fs::path& folder) : folder_(folder) {
    const auto index = folder / "model.safetensors.index.json";
    if (fs::exists(folder / "model.safetensors")) {
      files_.push_back(std::make_unique<SafetensorsFile>(folder / "model.safetensors"));
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
  bool has(const std::string& name) const override { return bool(locate(name)); }
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
                                       .found = std::string(codes ? quant::format(packed(name).format()).name : t.type),
                                       .fix = "check that config.json belongs to these weights"});
      if (!codes && t.type != "F32" && t.type != "BF16" && t.type != "F16")
        throw Error(Fault::bad_input, {.what = "a parameter holds no numbers that are read here",
                                       .where = file(name).where(name),
                                       .expected = "F32, BF16 or F16",
                                       .found = std::string(t.type),
                                       .fix = "name the 16-bit model"});
      if (!p.also.empty() && has(p.also)) check_same(p);
    });
  }
  void for_each_tensor(const std::function<void(const SafetensorsFile&, const TensorInfo&)>& f) const override {
    for (const auto& file : files_)
      for (const TensorInfo& t : file->tensors()) f(*file, t);
  }

 private:
  void check_same(const ParamSpec& p) const {
    bool same = info(p.also).shape == p.file_shape();
    const int64_t step = std::max<int64_t>(1, (int64_t{1} << 18) / p.shape.row());
    std::vector<float> a(size_t(step * p.shape.row())), b(a.size());
    for (int64_t row = 0; same && row < p.shape.rows(); row += step) {
      const Shape piece{std::min(step, p.shape.rows() - row), p.shape.row()};
      read(p.name, row, {a.data(), DType::f32, piece});
      read(p.also, row, {b.data(), DType::f32, piece});
      same = std::memcmp(a.data(), b.data(), size_t(piece.count()) * sizeof(float)) == 0;
    }
    if (!same)
      throw Error(Fault::bad_input, {.what = "the config ties two parameters that differ in the files",
                                     .where = file(p.also).where(p.also),
                                     .expected = "the numbers of '" + p.name + "', as tie_word_embeddings says",
                                     .found = "others",
                                     .fix = "set tie_word_embeddings to false in config.json if the model has a head of its own; else remove the tensor"});
  }

  Located locate(std::string_view name) const {
    if (entries_.empty()) return {files_.front().get(), files_.front()->find(name)};
    const auto at = std::lower_bound(entries_.begin(), entries_.end(), name, [&](const Entry& e, std::string_view n) { return name_of(e) < n; });
    if (at == entries_.end() || name_of(*at) != name) return {};
    return {files_[at->file].get(), &tensor_of(*at)};
  }
  const SafetensorsFile& file(const std::string& name) const { return *locate(name).file; }
  const TensorInfo& info(const std::string& name) const {
    const Located found = locate(name);
    if (!found)
      throw Error(Fault::bad_input, {.what = "a parameter is missing",
                                     .where = folder_.string(),
                                     .expected = name,
                                     .found = fmt::format("{} other tensors", entries_.empty() ? files_.front()->tensors().size() : entries_.size()),
                                     .fix = "check that all shards were downloaded, and that config.json belongs to these weights"});
    return *found.info;
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
  // Item by item: an index of 90,000 tensors is not kept beside the headers that say the same.
  void read_index(const fs::path& index) {
    std::map<std::string, uint32_t> opened;
    const JsonItems map{"weight_map", [&](JsonItem& item) {
      const std::string* name = item.key();
      if (!name) fail_field(index.string(), "weight_map", "an object from tensor to file", nullptr);
      const auto file = read_as<std::string>(item.tree(), "weight_map." + name->substr(0, 100), index.string());
      if (file.empty() || fs::path(file).filename() != file || file == ".." || file == ".")
        fail_field(index.string(), "weight_map", "file names inside the folder", &item.tree());
      const auto [at, is_new] = opened.try_emplace(file, uint32_t(files_.size()));
      if (is_new) open_shard(file, *name);
      const auto& shard = *files_[at->second];
      const TensorInfo* tensor = shard.find(*name);
      if (!tensor)
        throw Error(Fault::bad_input, {.what = "a shard does not hold what the index says",
                                       .where = (folder_ / file).string(),
                                       .expected = name->substr(0, 1024),
                                       .found = "no tensor of this name",
                                       .fix = "download the shard again"});
      entries_.push_back({at->second, uint32_t(tensor - shard.tensors().data())});
    }};
    FilePieces text(index);
    if (text.bytes() > longest_index)
      throw Error(Fault::bad_input, {.what = "an index is larger than it may be", .where = index.string(), .expected = human_bytes(longest_index), .found = human_bytes(text.bytes())});
    const Json rest = parse_json(text, index.string(), {&map, 1}, 8);
    if (!rest.is_object() || !rest.contains("weight_map") || !rest["weight_map"].is_object())
      fail_field(index.string(), "weight_map", "an object from tensor to file", rest.is_object() && rest.contains("weight_map") ? &rest["weight_map"] : nullptr);
    if (entries_.empty()) fail_field(index.string(), "weight_map", "tensors, and the files that hold them", &rest["weight_map"]);
    std::sort(entries_.begin(), entries_.end(), [&](const Entry& a, const Entry& b) { return name_of(a) < name_of(b); });
    check_once(index);
    check_total(rest, index);
  }
  void open_shard(const std::string& file, const std::string& named_for) {
    std::error_code refused;  // such as of a name that is too long
    if (!fs::exists(folder_ / file, refused))
      throw Error(Fault::bad_input, {.what = "a shard is missing",
                                     .where = folder_.string(),
                                     .expected = file.substr(0, 300),
                                     .found = "an index that names it for '" + named_for.substr(0, 100) + "'",
                                     .fix = "download the shard"});
    files_.push_back(std::make_unique<SafetensorsFile>(folder_ / file));
  }
  void check_once(const fs::path& index) const {
    const auto twice = std::adjacent_find(entries_.begin(), entries_.end(), [&](const Entry& a, const Entry& b) { return name_of(a) == name_of(b); });
    if (twice != entries_.end())
      throw Error(Fault::bad_input, {.what = "an index names a tensor twice", .where = index.string(), .expected = "each tensor once", .found = std::string(name_of(*twice).substr(0, 200))});
    for (const auto& shard : files_)
      for (const TensorInfo& t : shard->tensors())
        if (const Located listed = locate(t.name); listed && listed.info != &t)
          throw Error(Fault::bad_input, {.what = "two shards hold a tensor of one name",
                                         .where = shard->where(t.name),
                                         .expected = fmt::format("the tensor in {} alone, where the index has it", listed.file->file().path().filename().string()),
                                         .found = "another of this name",
                                         .fix = "download the folder again: its shards are of different versions"});
  }
  // Every shard was checked to the last byte, so a sum that is wrong is worth a word and no more: some tools count what they did not write.
  void check_total(const Json& index, const fs::path& path) const {
    const auto metadata = index.find("metadata");
    if (metadata == index.end() || metadata->is_null()) return;
    if (!metadata->is_object()) fail_field(path.string(), "metadata", "an object", &*metadata);
    const auto total = metadata->find("total_size");
    if (total == metadata->end() || total->is_null()) return;
    const double said = read_as<double>(*total, "metadata.total_size", path.string());
    if (said < 0 || said >= 0x1p63 || said != std::floor(said)) fail_field(path.string(), "metadata.total_size", "a number of bytes", &*total);
    int64_t sum = 0;
    for (const Entry& e : entries_) sum += tensor_of(e).bytes();
    if (int64_t(said) != sum)
      log_warning("{}: total_size is {}, and the tensors have {} bytes; if answers are wrong, download the folder again", path.string(), int64_t(said), sum);
  }

  fs::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  struct Entry {  // of an index
    uint32_t file, tensor;
  };
  const TensorInfo& tensor_of(const Entry& e) const { return files_[e.file]->tensors()[e.tensor]; }
  std::string_view name_of(const Entry& e) const { return tensor_of(e).name; }
  std::vector<Entry> entries_;  // by name; none where there is no index
  const Locate locate_ = [this](const std::string& name) { return locate(name); };
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

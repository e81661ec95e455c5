// Names to numbers: where weights come from. A folder of safetensors, or a seed that makes any shape on the spot.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "store/param_table.h"
#include "store/safetensors.h"

namespace thimble::store {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool has(const std::string& name) const = 0;
  // Rows [row, row + to.shape[0]) of the named tensor of the files (ParamSpec::file_name), converted to `to`'s type, into host memory. Of a matrix
  // that the files hold packed, the numbers that its codes stand for.
  // Throws Error (bad_input) when the parameter is missing or of another shape than `to` says (all dimensions but the first).
  virtual void read(const std::string& name, int64_t row, Tensor to) const = 0;
  // Elements [first, first + to.count()) of a part of a matrix that ParamSpec::comes_packed(), parts as quant::parts_of numbers them.
  virtual void read_part(const std::string& name, int part, int64_t first, Tensor to) const;
  // Throws Error (bad_input) unless every parameter of the table is there in its shape.
  virtual void check_table(const ParamTable&) const {}
  // Each tensor of the files, with the file that holds it; none of weights that are made on the spot.
  virtual void for_each_tensor(const std::function<void(const SafetensorsFile&, const TensorInfo&)>&) const {}
};

// model.safetensors, or model.safetensors.index.json and the shards beside it.
std::unique_ptr<WeightSource> open_weights(const fs::path& folder);

// Seeded numbers of the table's shapes: matrices, biases and embeddings normal(0, std), norms 1 (or 0: ParamSpec).
// A value depends on seed, name and position only.
// A few million normal numbers again and again: for measurements at sizes where generating all would take minutes.
std::unique_ptr<WeightSource> repeated_random_weights(const ParamTable&, uint64_t seed, float standard_deviation = 0.02f);
std::unique_ptr<WeightSource> random_weights(const ParamTable&, uint64_t seed, float standard_deviation = 0.02f);

}  // namespace thimble::store

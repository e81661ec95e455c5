// How a gradient becomes a step: one table of update rules. A rule walks a table of {parameter, gradient, states} in one launch and reads
// the step's values from the device, so that a captured step stays valid for all steps.
#pragma once
#include <array>
#include <span>
#include <string_view>

#include "device/stream.h"
#include "quant/weight.h"

namespace thimble::optim {

enum class OptimizerId : uint8_t { adamw, adamw_8bit, adamw_bf16, sgd, sgd_momentum, lion, adafactor, lion_8bit };

struct Hyper {
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;  // of AdamW and, but for eps, of Lion
  float momentum = 0;                               // of SGD
};

// One tensor to update: param and grad of one shape, param overwritten; states as states_of says, overwritten. Both f32; or param bf16, from which the
// update is computed in f32 and rounded back as optim/stochastic_rounding.h says, and grad bf16, or f32 and taken as the nearest bf16: so that one that
// waits in bf16 until it is wanted gives the same bits.
struct Update {
  Tensor param, grad;
  std::array<Tensor, 4> states{};
  float weight_decay = 0;
  float rate = 1;      // times the step's learning rate
  uint32_t place = 0;  // of the step's draws: no two tensors share one
};

// The values of a step, an f32 device tensor of this many.
enum Scalar : int {
  learning_rate,
  bias1,       // 1 - beta1^t
  sqrt_bias2,  // sqrt(1 - beta2^t)
  grad_scale,  // multiplied into the gradient: the clip factor, 1 where nothing is clipped; not finite: the update changes nothing
  factored_beta2,  // 1 - t^-0.8, Adafactor's decay
  seed_low, seed_high, step_number,  // of what is drawn: the bits of 32-bit integers, which are copied and never computed with
  scalar_count
};

// The values of step t = 1, 2, ..., computed in double.
std::array<float, scalar_count> scalars_of(int64_t t, double rate, double scale, const Hyper&, uint64_t seed = 0);

struct Optimizer {
  OptimizerId id;
  std::string_view name;  // as in options
  void (*states)(const Shape& param, std::array<quant::Part, 4>& out, int& n);
  void (*zero)(Stream&, std::span<const Update>);
  void (*update)(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);
};

std::span<const Optimizer> optimizers();
const Optimizer& optimizer(OptimizerId);
const Optimizer& optimizer(std::string_view name);  // throws Error (usage) naming the nearest

// The states that a parameter needs, in the order of Update::states; their suffixes are names in a checkpoint.
std::array<quant::Part, 4> states_of(OptimizerId, const Shape& param, int& n);
int64_t state_bytes(OptimizerId, const Shape& param);  // sum of aligned states

void zero_states(Stream&, OptimizerId, std::span<const Update>);  // as before the first step; param and grad are not looked at
void update(Stream&, OptimizerId, std::span<const Update>, const Tensor& scalars, const Hyper&);

// For a rule: its states fit the updates; what the launch reads and writes.
void check_updates(OptimizerId, std::span<const Update>);
Work update_work(const char* name, std::span<const Update>, double flops_an_element);
void zero_all_states(Stream&, std::span<const Update>);  // every byte 0
Work zero_work(const char* name, std::span<const Update>);
void fill_cuda(CudaContext&, Tensor, int byte);  // every byte, on cuda

}  // namespace thimble::optim

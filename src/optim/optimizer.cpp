// The table of optimizers, and the checks that every rule shares.
#include "optim/optimizer.h"

#include <fmt/core.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "optim/adafactor.h"
#include "optim/adamw.h"
#include "optim/adamw_8bit.h"
#include "optim/lion.h"
#include "optim/lion_8bit.h"
#include "optim/sgd.h"
#include "optim/states_8bit.h"

namespace thimble::optim {
namespace {

constexpr Optimizer table[] = {
    {OptimizerId::adamw, "adamw", adamw_states, zero_all_states, adamw_update},
    {OptimizerId::adamw_8bit, "adamw_8bit", adamw_8bit_states, zero_8bit_states, adamw_8bit_update},
    {OptimizerId::adamw_bf16, "adamw_bf16", adamw_bf16_states, zero_all_states, adamw_update},
    {OptimizerId::sgd, "sgd", sgd_states, zero_all_states, sgd_update},
    {OptimizerId::sgd_momentum, "sgd_momentum", sgd_momentum_states, zero_all_states, sgd_update},
    {OptimizerId::lion, "lion", lion_states, zero_all_states, lion_update},
    {OptimizerId::lion_8bit, "lion_8bit", lion_8bit_states, zero_8bit_states, lion_8bit_update},
    {OptimizerId::adafactor, "adafactor", adafactor_states, zero_all_states, adafactor_update},
};

}  // namespace

std::span<const Optimizer> optimizers() { return table; }

const Optimizer& optimizer(OptimizerId id) {
  for (const Optimizer& o : table)
    if (o.id == id) return o;
  throw Error(fmt::format("optimizer {} has no row in the table", int(id)));
}

const Optimizer& optimizer(std::string_view name) {
  std::vector<std::string_view> names;
  std::string all;
  for (const Optimizer& o : table) {
    if (o.name == name) return o;
    names.push_back(o.name);
    all += fmt::format("{}{}", all.empty() ? "" : ", ", o.name);
  }
  const std::string close = nearest(name, names);
  throw Error(Fault::usage, {.what = "no such optimizer",
                             .expected = "one of " + all,
                             .found = fmt::format("'{}'", name),
                             .fix = close.empty() ? "" : fmt::format("did you mean '{}'?", close)});
}

std::array<float, scalar_count> scalars_of(int64_t t, double rate, double scale, const Hyper& hyper, uint64_t seed) {
  check(t >= 1, "steps of an optimizer count from one");
  std::array<float, scalar_count> s{};
  s[learning_rate] = float(rate);
  s[bias1] = float(1.0 - std::pow(double(hyper.beta1), double(t)));
  s[sqrt_bias2] = float(std::sqrt(1.0 - std::pow(double(hyper.beta2), double(t))));
  s[grad_scale] = float(scale);
  s[factored_beta2] = float(1.0 - std::pow(double(t), -0.8));
  s[seed_low] = std::bit_cast<float>(uint32_t(seed));
  s[seed_high] = std::bit_cast<float>(uint32_t(seed >> 32));
  s[step_number] = std::bit_cast<float>(uint32_t(t));
  return s;
}

std::array<quant::Part, 4> states_of(OptimizerId id, const Shape& param, int& n) {
  std::array<quant::Part, 4> out{};
  optimizer(id).states(param, out, n);
  return out;
}

int64_t state_bytes(OptimizerId id, const Shape& param) {
  int n = 0;
  const auto states = states_of(id, param, n);
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += aligned(states[size_t(i)].shape.count() * size_of(states[size_t(i)].dtype));
  return sum;
}

void zero_states(Stream& s, OptimizerId id, std::span<const Update> updates) {
  check_updates(id, updates);
  optimizer(id).zero(s, updates);
}

void update(Stream& s, OptimizerId id, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  check(scalars.dtype == DType::f32 && scalars.count() == scalar_count, "an optimizer's scalars: an f32 of each");
  check_updates(id, updates);
  for (const Update& u : updates) {
    check(u.param.dtype == DType::f32 ? u.grad.dtype == DType::f32 : u.param.dtype == DType::bf16 && (u.grad.dtype == DType::bf16 || u.grad.dtype == DType::f32),
          "an optimizer updates f32 parameters with f32 gradients, bf16 ones with either");
    check(u.param.shape == u.grad.shape, "a gradient is shaped like its parameter");
  }
  optimizer(id).update(s, updates, scalars, hyper);
}

void check_updates(OptimizerId id, std::span<const Update> updates) {
  for (const Update& u : updates) {
    int n = 0;
    const auto states = states_of(id, u.param.shape, n);
    for (size_t i = 0; i < size_t(n); ++i) {
      const Tensor& t = u.states[i];
      if (!t || t.dtype != states[i].dtype || t.count() != states[i].shape.count())
        throw Error(Fault::internal, {.what = fmt::format("a state of {} does not fit its parameter", optimizer(id).name),
                                      .where = fmt::format("state '{}' of a parameter {}", states[i].suffix, to_string(u.param.shape)),
                                      .expected = fmt::format("{} {}", name_of(states[i].dtype), to_string(states[i].shape)),
                                      .found = t ? to_string(t) : "nothing"});
    }
  }
}

Work update_work(const char* name, std::span<const Update> updates, double flops_an_element) {
  Work work{.name = name};
  constexpr double flops_of_a_rounding = 18;  // of one element: ten rounds for eight
  for (const Update& u : updates) {
    work.flops += (flops_an_element + (u.param.dtype == DType::bf16 ? flops_of_a_rounding : 0)) * double(u.param.count());
    work.bytes += 2.0 * double(u.param.bytes()) + double(u.grad.bytes());  // read and written; read
    for (const Tensor& t : u.states)
      if (t) work.bytes += 2.0 * double(t.bytes());
  }
  return work;
}

void zero_all_states(Stream& s, std::span<const Update> updates) {
  const auto each = [&](auto&& fill) {
    for (const Update& u : updates)
      for (const Tensor& t : u.states)
        if (t) fill(t);
  };
  launch(
      s, zero_work("zero optimizer states", updates), [&] { each([](const Tensor& t) { std::memset(t.data, 0, size_t(t.bytes())); }); },
      [&](auto& cuda) { each([&](const Tensor& t) { fill_cuda(cuda, t, 0); }); });
}

Work zero_work(const char* name, std::span<const Update> updates) {
  Work work{.name = name};
  for (const Update& u : updates)
    for (const Tensor& t : u.states)
      if (t) work.bytes += double(t.bytes());
  return work;
}

}  // namespace thimble::optim

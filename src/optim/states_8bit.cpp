// What is common to rules with moments of 8 bits: their beginning, which is the code of 0 in the map of each.
#include "optim/states_8bit.h"

#include <cstring>

namespace thimble::optim {

void zero_8bit_states(Stream& s, std::span<const Update> updates) {
  const auto zero_all = [&](const auto& fill) {
    for (const Update& u : updates)
      for (size_t i = 0; i < u.states.size() && u.states[i]; ++i)
        fill(u.states[i], u.states[i].dtype != DType::u8 ? 0 : (i == 0 ? quant::signed_map() : quant::unsigned_map()).zero());
  };
  launch(s, zero_work("zero 8bit states", updates), [&] { zero_all([](const Tensor& t, int byte) { std::memset(t.data, byte, size_t(t.bytes())); }); },
         [&](auto& cuda) { zero_all([&](const Tensor& t, int byte) { fill_cuda(cuda, t, byte); }); });
}

}  // namespace thimble::optim

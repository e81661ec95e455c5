// Lanes of a and b, chosen by lane of `from`: a's are counted first, then b's. GCC has it as a builtin and makes one instruction of it; clang, with
// which the sanitizers and the fuzzers are built, has it for constants alone.
#pragma once

namespace thimble {

#ifdef __clang__
template <class Lanes, class Indices>
Lanes shuffle(Lanes a, Lanes b, Indices from) {
  constexpr int lanes = sizeof(Lanes) / sizeof(a[0]);
  Lanes chosen = a;
  for (int i = 0; i < lanes; ++i) chosen[i] = from[i] & lanes ? b[from[i] & (lanes - 1)] : a[from[i] & (lanes - 1)];
  return chosen;
}
#else
template <class Lanes, class Indices>
[[gnu::always_inline]] inline Lanes shuffle(Lanes a, Lanes b, Indices from) {
  return __builtin_shuffle(a, b, from);
}
#endif

}  // namespace thimble

// A packed matrix as NF4's kernels see it.
#pragma once
#include "quant/dynamic8.cuh"
#include "quant/nf4.h"

namespace thimble::quant {

static __constant__ float book[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
                               -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                               0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// The bytes of a packed matrix on the device.
struct Bytes4 {
  const uint8_t* codes = nullptr;
  const float* absmax = nullptr;          // nf4
  const uint8_t* nested_codes = nullptr;  // nf4_dq, as the rest
  const float *nested_absmax = nullptr, *map = nullptr, *offset = nullptr;
  int64_t count = 0;

  Bytes4() = default;
  explicit Bytes4(const Weight& w) : codes(at<const uint8_t>(w.parts[0])), count(w.shape.count()) {
    if (w.format == FormatId::nf4) {
      absmax = at<const float>(w.parts[1]);
      return;
    }
    nested_codes = at<const uint8_t>(w.parts[1]);
    nested_absmax = at<const float>(w.parts[2]);
    offset = at<const float>(w.parts[3]);
    map = device_maps()->signed_values;
  }
  // The reference rounds the product before it adds the offset.
  __device__ __forceinline__ float scale(int64_t block) const {
    return absmax ? absmax[block] : __fadd_rn(__fmul_rn(map[nested_codes[block]], nested_absmax[block / nested_block]), *offset);
  }
  __device__ __forceinline__ int code(int64_t i) const { return i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15; }
};

}  // namespace thimble::quant

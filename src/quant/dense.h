// The format of plain numbers: f32, bf16 or f16, one part.
// Pack and unpack are conversions; the product with a few tokens reads each weight once, at the speed of memory.
#pragma once
#include "quant/weight.h"

namespace thimble::quant {

void dense_parts(const Shape& matrix, DType dense, std::array<Part, 4>& out, int& count);
void dense_pack(Stream&, const Weight& out, const Numbers&);
void dense_unpack(Stream&, Tensor dense, const Weight&);
void dense_multiply_few(Stream&, Tensor x, std::span<const FewProduct>);
void dense_decode(float* out, const Weight&, int64_t first, int64_t n);

void dense_convert_cuda(CudaContext&, Tensor y, Tensor x);  // y = x, any float types, as many elements; for .cu files and launch()

}  // namespace thimble::quant

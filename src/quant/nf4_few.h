// How NF4's product with a few tokens is divided on cuda, and what scratch that takes: decided by shapes alone, so plan and run agree.
#pragma once
#include "quant/nf4.h"

namespace thimble::quant {

constexpr int few_tile_rows = 16, few_token_columns = 8;  // of a product of tensor cores
constexpr int few_warps = 8, few_unit_blocks = 4;         // that multiply, each by so many of a row's blocks
constexpr int few_unit = few_unit_blocks * int(nf4_block), few_piece = few_warps * few_unit;  // columns of a warp; and of a block of threads
constexpr int most_token_columns = 2;                     // of a kernel
static_assert(most_few_tokens <= most_token_columns * few_token_columns);

constexpr int64_t few_pieces(int64_t columns) { return (columns + few_piece - 1) / few_piece; }
// (pieces, tiles, tokens / 8, 8 x 16) f32: the sums of each piece of longer rows; empty where there is one, and where x is one token or not for tensor cores.
inline Shape nf4_few_partial(Tensor x, std::span<const FewProduct> products) {
  int64_t tiles = 0;
  for (const FewProduct& p : products) tiles += (p.w->shape[0] + few_tile_rows - 1) / few_tile_rows;
  const int64_t pieces = few_pieces(x.shape[1]), tokens = std::min<int64_t>(most_token_columns, (x.shape[0] + few_token_columns - 1) / few_token_columns);
  return pieces > 1 && x.shape[0] > 1 && x.dtype == DType::bf16 ? Shape{pieces, tiles, tokens, few_token_columns * few_tile_rows} : Shape{0};
}

}  // namespace thimble::quant

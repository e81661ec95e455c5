// Rows of a table on the cpu: tokens in parallel; the gradient by channels, so that each sum runs in the order of the tokens.
#include "ops/embedding.h"

#include "base/threads.h"
#include "ops/vector_math.h"

namespace thimble::ops {

void embedding_cuda(CudaContext&, Tensor y, Tensor ids, Tensor table);  // embedding.cu
void embedding_packed_cuda(CudaContext&, Tensor y, Tensor ids, const quant::Weight& table);
void embedding_backward_cuda(CudaContext&, Tensor dtable, Tensor dy, Tensor ids);

namespace {

int64_t row_of(int32_t id) { return std::max(id, 0); }

void check_embedding(Tensor y, Tensor ids, const Shape& table) {
  check(table.rank() == 2 && ids.dtype == DType::i32 && ids.shape.rank() == 1, "embedding: table is (V, C), ids is (T) i32");
  check(y.shape == Shape{ids.shape[0], table[1]}, "embedding: y is (T, C)");
}

}  // namespace

void embedding(Stream& s, Tensor y, Tensor ids, Tensor table) {
  check_embedding(y, ids, table.shape);
  const int64_t tokens = y.shape[0], channels = y.shape[1];
  const Work work{.name = "embedding", .bytes = double(y.bytes() + y.count() * size_of(table.dtype) + ids.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          visit_float(table.dtype, [&]<class W>(W) {
            parallel_for(tokens, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, channels)), [&](int64_t begin, int64_t end) {
              for (int64_t t = begin; t < end; ++t) {
                const W* from = table.get<W>() + row_of(ids.get<int32_t>()[t]) * channels;
                Y* to = y.get<Y>() + t * channels;
                each_vector(channels, [&](int64_t c, auto n) { store(to + c, load(from + c, n), n); });
              }
            });
          });
        });
      },
      [&](auto& cuda) { embedding_cuda(cuda, y, ids, table); });
}

void embedding(Stream& s, Tensor y, Tensor ids, const quant::Weight& table) {
  if (table.format == quant::FormatId::dense) return embedding(s, y, ids, table.dense());
  quant::check_parts(table);
  check_embedding(y, ids, table.shape);
  const int64_t tokens = y.shape[0], channels = y.shape[1];
  const Scope scope(s.arena);
  const Tensor rows = s.device.kind() == DeviceKind::cpu ? s.scratch("rows of a packed table", DType::f32, y.shape) : Tensor{};
  const Work work{.name = "embedding", .bytes = double(y.bytes() + ids.bytes()) + double(quant::bytes_of(table)) * double(tokens) / double(std::max<int64_t>(1, table.shape[0]))};
  launch(
      s, work,
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          for (int64_t t = 0; t < tokens; ++t) {
            float* row = rows.get<float>() + t * channels;
            quant::format(table.format).decode(row, table, row_of(ids.get<int32_t>()[t]) * channels, channels);
            each_vector(channels, [&](int64_t c, auto n) { store(y.get<Y>() + t * channels + c, load(row + c, n), n); });
          }
        });
      },
      [&](auto& cuda) { embedding_packed_cuda(cuda, y, ids, table); });
}

void embedding_backward(Stream& s, Tensor dtable, Tensor dy, Tensor ids) {
  check_embedding(dy, ids, dtable.shape);
  check(dtable.dtype == DType::f32, "embedding_backward: dtable is f32");
  const int64_t tokens = dy.shape[0], channels = dy.shape[1];
  const Work work{.name = "embedding_backward", .flops = double(dy.count()),
                  .bytes = double(dy.bytes() + 2 * dy.count() * size_of(DType::f32) + ids.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(dy.dtype, [&]<class Y>(Y) {
          parallel_for((channels + lanes - 1) / lanes, 2, [&](int64_t begin, int64_t end) {
            const int64_t first = begin * lanes, count = std::min(end * lanes, channels) - first;
            for (int64_t t = 0; t < tokens; ++t) {
              float* to = dtable.get<float>() + int64_t{ids.get<int32_t>()[t]} * channels + first;
              const Y* from = dy.get<Y>() + t * channels + first;
              each_vector(count, [&](int64_t c, auto n) { store(to + c, load(to + c, n) + load(from + c, n), n); });
            }
          });
        });
      },
      [&](auto& cuda) { embedding_backward_cuda(cuda, dtable, dy, ids); });
}

}  // namespace thimble::ops

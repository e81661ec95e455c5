// Rows of a table by token id.              ids (T) i32, checked on the host, or argmax's (whose -1 reads the first row); table (V, C) any float; y dy (T, C); dtable (V, C) f32
#pragma once
#include "quant/weight.h"

namespace thimble::ops {

void embedding(Stream&, Tensor y, Tensor ids, Tensor table);             // y overwritten
void embedding(Stream&, Tensor y, Tensor ids, const quant::Weight& table);  // the same of a table in any format
void embedding_backward(Stream&, Tensor dtable, Tensor dy, Tensor ids);  // dtable added to, in the order of the tokens

}  // namespace thimble::ops

// Causal attention with grouped key/value heads, blocked: no (T, S) matrix is ever in memory (Dao et al. 2022, online softmax).
// T queries, S keys, H query heads, K key/value heads (H a multiple of K), D head dim. q y (T, H, D); k v (S, K, D); lse (H, T) f32.
// Query t stands at key position first + t and sees keys start[t] .. first + t: with start[t] = the first token of its document,
// documents packed into one row do not see each other. start (T) i32. With a window it sees the last `window` of these keys, itself among them.
#pragma once
#include <span>

#include "device/stream.h"

namespace thimble::ops {

struct AttentionShape {
  Tensor start;        // (T) i32, 0 <= start[t] <= first + t
  int64_t longest = 0; // no document has more tokens: the plan's time counts with it, and what is prepared for a shape is for this one; 0: T
  int64_t document = 0;  // tokens of each document where all are of one length, else 0: a faster way may open
  int64_t first = 0;   // keys before the first query: the length of the cache
  float scale = 0;     // of q.k; 1/sqrt(D) as a rule
  int64_t window = 0;  // keys that a query sees at most; 0: no limit
  float cap = 0;       // where it is not 0 a score s becomes cap tanh(s / cap) (Gemma 2)
};
// y, lse overwritten. lse = log of the softmax's sum per head and query, what backward needs (on
// cuda ordered as the way taken likes it); may be null.
void attention(Stream&, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape&);
// A sequence behind keys and values (S, K, D) of its own, of which the first rows are there.
struct Cached {
  Tensor keys, values;
  int64_t first = 0;
};
// The same for one token of each of T sequences, each as it is alone, to the bit: k, v (T, K, D) become row `first` of its keys and values. `first` of the shape is not read.
void attention(Stream&, Tensor y, Tensor q, Tensor k, Tensor v, std::span<const Cached>, const AttentionShape&);
// What that is, for an op of which it is a part; shapes are checked.
Work attention_work(Stream&, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape&);
// dq dk dv overwritten. first must be 0 and S == T.
struct AttentionGrad { Tensor dq, dk, dv; };
void attention_backward(Stream&, const AttentionGrad&, Tensor dy, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v,
                        const AttentionShape&);

}  // namespace thimble::ops

// Parallel loops on the CPU: OpenMP with a static cut, so that the work of each thread does not depend on timing.
// Cuts depend on the thread count, so reductions across chunks must not: use fixed-size blocks and add them in order.
#pragma once
#include <cstdint>
#include <algorithm>
#include <omp.h>

namespace thimble {

inline int thread_count() { return omp_get_max_threads(); }
inline void set_thread_count(int n) { omp_set_num_threads(n); }

// f(begin, end) over [0, n) in chunks of at least `grain` items, at most one chunk a thread; runs inline when n is small.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  const int64_t chunks = std::min<int64_t>(thread_count(), std::max<int64_t>(1, n / std::max<int64_t>(1, grain)));
  if (chunks <= 1 || omp_in_parallel()) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(int(chunks))
  for (int64_t c = 0; c < chunks; ++c) f(n * c / chunks, n * (c + 1) / chunks);
}

}  // namespace thimble

// THIMBLE_BOTH: a function for the host and for kernels. They round alike where what is added to a product goes by fma, so that no compiler chooses.
#pragma once

#ifdef __CUDACC__
#define THIMBLE_BOTH __host__ __device__
#else
#define THIMBLE_BOTH
#endif

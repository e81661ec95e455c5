// THIMBLE_ASM_90: instructions of compute capability 9 and later. Before, they trap: nobody launches what has them.
#pragma once

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define THIMBLE_ASM_90(...) __trap()
#else
#define THIMBLE_ASM_90(...) asm volatile(__VA_ARGS__)
#endif

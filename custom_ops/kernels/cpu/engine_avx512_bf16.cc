// The CPU kernels for x86 processors with AVX-512 and its bfloat16 instructions.
#include "engine.h"

#ifdef DCN_HAS_AVX512_BF16
#define DCN_ISA avx512_bf16
#define DCN_VECTOR_BYTES 64
#define DCN_SPLIT
#include "engine-inl.h"

#endif

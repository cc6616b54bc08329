// The CPU kernels for x86 processors with AVX-512 (F, BW, DQ, VL).
#include "engine.h"

#ifdef DCN_HAS_AVX512
#define DCN_ISA avx512
#define DCN_VECTOR_BYTES 64
#include "engine-inl.h"

#endif

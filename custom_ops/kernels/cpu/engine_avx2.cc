// The CPU kernels for x86 processors with AVX2 and FMA.
#include "engine.h"

#ifdef DCN_HAS_AVX2
#define DCN_ISA avx2
#define DCN_VECTOR_BYTES 32
#include "engine-inl.h"

#endif

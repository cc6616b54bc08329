// The CPU kernels for x86 processors with AMX for bfloat16 beside AVX-512.
#include "engine.h"

#ifdef DCN_HAS_AMX
#define DCN_ISA amx
#define DCN_VECTOR_BYTES 64
#define DCN_SPLIT
#define DCN_AMX
#include "engine-inl.h"

#endif

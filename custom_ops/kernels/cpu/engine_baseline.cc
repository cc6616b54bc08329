// The CPU kernels for any machine: 16-byte vectors, which every 64-bit x86 and Arm processor has.
#include "engine.h"

#define DCN_ISA baseline
#define DCN_VECTOR_BYTES 16
#include "engine-inl.h"

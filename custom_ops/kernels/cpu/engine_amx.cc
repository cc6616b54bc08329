// The CPU kernels for x86 processors with AMX for bfloat16 beside AVX-512.
#include <sched.h>

#include <cstdint>

#include "../sampling.h"
#include "engine.h"
#include "threads.h"

#ifdef DCN_HAS_AMX

#define DCN_ISA amx
#define DCN_VECTOR_BYTES 64
#define DCN_SPLIT
#define DCN_AMX
#include "engine_body.h"

namespace dcn {
namespace cpu {
const Engine kAmx = {"amx",
                     &kAvx512,
                     amx::forward_workspace,
                     amx::backward_workspace,
                     amx::run_forward,
                     amx::run_backward};
}  // namespace cpu
}  // namespace dcn

#endif  // DCN_HAS_AMX

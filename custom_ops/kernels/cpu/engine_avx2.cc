// The CPU kernels for x86 processors with AVX2 and FMA.
#if defined(__x86_64__)

#include <sched.h>

#include <cstdint>

#include "../sampling.h"
#include "engine.h"
#include "threads.h"

#define DCN_ISA avx2
#define DCN_VECTOR_BYTES 32
#include "engine_body.h"

namespace dcn {
namespace cpu {
const Engine kAvx2 = {"avx2",
                      nullptr,
                      avx2::forward_workspace,
                      avx2::backward_workspace,
                      avx2::run_forward,
                      avx2::run_backward};
}  // namespace cpu
}  // namespace dcn

#endif  // __x86_64__

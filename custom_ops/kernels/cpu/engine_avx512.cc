// The CPU kernels for x86 processors with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)

#include <sched.h>

#include <cstdint>

#include "../sampling.h"
#include "engine.h"
#include "threads.h"

#define DCN_ISA avx512
#define DCN_VECTOR_BYTES 64
#include "engine_body.h"

namespace dcn {
namespace cpu {
const Engine kAvx512 = {"avx512",
                        nullptr,
                        avx512::forward_workspace,
                        avx512::backward_workspace,
                        avx512::run_forward,
                        avx512::run_backward};
}  // namespace cpu
}  // namespace dcn

#endif  // __x86_64__

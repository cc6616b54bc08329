// The CPU kernels for x86 processors with AVX-512 and its bfloat16 instructions.
#include <sched.h>

#include <cstdint>

#include "../sampling.h"
#include "engine.h"
#include "threads.h"

#ifdef DCN_HAS_AVX512_BF16

#define DCN_ISA avx512_bf16
#define DCN_VECTOR_BYTES 64
#define DCN_SPLIT
#include "engine_body.h"

namespace dcn {
namespace cpu {
const Engine kAvx512Bf16 = {"avx512_bf16",
                            &kAvx512,
                            avx512_bf16::forward_workspace,
                            avx512_bf16::backward_workspace,
                            avx512_bf16::run_forward,
                            avx512_bf16::run_backward};
}  // namespace cpu
}  // namespace dcn

#endif  // DCN_HAS_AVX512_BF16

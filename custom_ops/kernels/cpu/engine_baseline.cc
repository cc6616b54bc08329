// The CPU kernels for any machine: 16-byte vectors, which every 64-bit x86 and Arm processor has.

#include <sched.h>

#include <cstdint>

#include "../sampling.h"
#include "engine.h"
#include "threads.h"

#define DCN_ISA baseline
#define DCN_VECTOR_BYTES 16
#include "engine_body.h"

namespace dcn {
namespace cpu {
const Engine kBaseline = {"baseline",
                          nullptr,
                          baseline::forward_workspace,
                          baseline::backward_workspace,
                          baseline::run_forward,
                          baseline::run_backward};
}  // namespace cpu
}  // namespace dcn

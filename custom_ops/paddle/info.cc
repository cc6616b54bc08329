// What `python -m paddle_dcn info` asks of the loaded library.
#include "../kernels/cpu/cpu.h"

#define DCN_EXPORT extern "C" __attribute__((visibility("default")))

// The full version of the Paddle whose headers it was compiled with.
DCN_EXPORT const char* paddle_dcn_built_for() { return PADDLE_DCN_BUILT_FOR; }

DCN_EXPORT const char* paddle_dcn_instruction_set() { return dcn::cpu::instruction_set(); }

// How many threads the next call would use.
DCN_EXPORT int paddle_dcn_threads() { return dcn::cpu::max_threads(); }

DCN_EXPORT int paddle_dcn_has_cuda() {
#ifdef PADDLE_DCN_WITH_CUDA
  return 1;
#else
  return 0;
#endif
}

// What `python -m paddle_dcn info` asks of the loaded library.
#include "../kernels/dcn.h"
#include "run_on_device.h"

#define DCN_EXPORT extern "C" __attribute__((visibility("default")))

// The full version of the Paddle whose headers it was compiled with.
DCN_EXPORT const char* paddle_dcn_built_for() { return PADDLE_DCN_BUILT_FOR; }

// What is in use for float32, and for bfloat16.
DCN_EXPORT const char* paddle_dcn_instruction_set() {
  return dcn_cpu_engine_name(dcn::binding::choose_engine(dcn::DataType::kFloat32));
}
DCN_EXPORT const char* paddle_dcn_bfloat16_instruction_set() {
  return dcn_cpu_engine_name(dcn::binding::choose_engine(dcn::DataType::kBFloat16));
}

// How many threads the next call would use.
DCN_EXPORT int paddle_dcn_threads() { return dcn_cpu_max_threads(); }

// The compute capabilities that the CUDA kernels were compiled for; "" without them.
DCN_EXPORT const char* paddle_dcn_cuda_capabilities() {
#ifdef PADDLE_DCN_WITH_CUDA
  return PADDLE_DCN_CUDA_CAPABILITIES;
#else
  return "";
#endif
}

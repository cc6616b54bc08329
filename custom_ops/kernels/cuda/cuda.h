// The CUDA kernels' interface: C linkage, raw device pointers, no state, usable through ctypes.
#pragma once

#include <cstddef>

#include "../problem.h"

namespace dcn {
namespace cuda {

// Bits of the `flags` arguments.
enum Flag : int {
  kDeterministic = 1,  // grad_x without floating-point atomics (all else never depends on timing)
  kTensorFloat32 = 2,  // float32 products on tensor cores, operands rounded to 10 mantissa bits
  kWideIndex = 4,      // 64-bit indices also where 32 bits would do
};

}  // namespace cuda
}  // namespace dcn

extern "C" {

// Bytes of device memory for `workspace`, which is 256-byte aligned, contents arbitrary. Images go
// through it a few at a time, so it does not grow with the batch. `tensors` says what is wanted
// and how it is aligned.
size_t dcn_cuda_forward_workspace(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                                  int flags);
size_t dcn_cuda_backward_workspace(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                                   int flags);

// Enqueue on `stream` (a cudaStream_t) of the current device; neither allocate nor synchronise.
// Return a cudaError_t: 0, or the first launch's error.
int dcn_cuda_forward(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                     void* workspace, void* stream, int flags);
int dcn_cuda_backward(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                      void* workspace, void* stream, int flags);

const char* dcn_cuda_error_name(int error);
}

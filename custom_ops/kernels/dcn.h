// The kernels' C API: C linkage, raw pointers, nothing to set up, usable through ctypes. Nothing
// throws.
#pragma once

#include <cstddef>

#include "problem.h"

#define DCN_API extern "C" __attribute__((visibility("default")))

// Bytes of Problem, ForwardTensors and BackwardTensors in this library, for callers that were not
// compiled with these headers: where theirs are others, it is of another version.
DCN_API void dcn_cpu_struct_bytes(size_t bytes[3]);
DCN_API void dcn_cuda_struct_bytes(size_t bytes[3]);

// ---- CPU
//
// An engine is the CPU kernels compiled for one instruction set. Engines are numbered from 0, each
// of which needs more of the processor than those before it. Before one computes,
// dcn_cpu_engine_runs() must have been asked about it, and must have said yes.

// How many engines this library has.
DCN_API int dcn_cpu_engines();
// "baseline", "avx2", "avx512", "avx512_bf16" or "amx".
DCN_API const char* dcn_cpu_engine_name(int engine);
// Whether this processor and its system run it: 1 or 0.
DCN_API int dcn_cpu_engine_runs(int engine);
// The engine that computes fastest in this data type here, of those up to `limit` (-1: of all). The
// limit itself is taken wherever it runs, since it was asked for.
DCN_API int dcn_cpu_default_engine(dcn::DataType dtype, int limit);
// How long one vdpbf16ps of AVX512-BF16 takes, which does the work of two vfmadd231ps, in times of
// one of these; measured at the first call, in some 20 us. 0 where the processor has none.
DCN_API double dcn_cpu_bfloat16_time();
// Whether avx512_bf16 then computes bfloat16 faster than avx512 does.
DCN_API int dcn_cpu_bfloat16_pays(double time);

// The number of threads of the process's OpenMP runtime, Intel's before any other.
DCN_API int dcn_cpu_max_threads();

// Bytes of scratch memory for `workspace`, which is 64-byte aligned, contents arbitrary.
DCN_API size_t dcn_cpu_forward_workspace(const dcn::Problem* problem,
                                         const dcn::ForwardTensors* tensors, int engine,
                                         int threads);
DCN_API size_t dcn_cpu_backward_workspace(const dcn::Problem* problem,
                                          const dcn::BackwardTensors* tensors, int engine,
                                          int threads);

// Bytes of ForwardTensors::packed, which depend on the weight's shape, groups, deformable groups
// and the data type only.
DCN_API size_t dcn_cpu_packed_bytes(const dcn::Problem* problem, int engine);

// Do not allocate. What an engine is not for, or cannot compute accurately, a lower one computes.
// Results do not depend on the number of threads.
DCN_API void dcn_cpu_forward(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                             void* workspace, int engine, int threads);
DCN_API void dcn_cpu_backward(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                              void* workspace, int engine, int threads);

// ---- CUDA, in libraries that were built with it

namespace dcn {
namespace cuda {

// Bits of the `flags` arguments.
enum Flag : int {
  kDeterministic = 1,  // grad_x without floating-point atomics (all else never depends on timing)
  kTensorFloat32 = 2,  // float32 products on tensor cores, operands rounded to 10 mantissa bits
  kWideIndex = 4,      // 64-bit indices also where 32 bits would do
  kSmallChunks = 8,    // column gradients of few channels at a time also where all have room
};

}  // namespace cuda
}  // namespace dcn

// Bytes of device memory for `workspace`, which is 256-byte aligned, contents arbitrary. Images go
// through it a few at a time, so it does not grow with the batch. `tensors` says what is wanted
// and how it is aligned.
DCN_API size_t dcn_cuda_forward_workspace(const dcn::Problem* problem,
                                          const dcn::ForwardTensors* tensors, int flags);
DCN_API size_t dcn_cuda_backward_workspace(const dcn::Problem* problem,
                                           const dcn::BackwardTensors* tensors, int flags);

// Enqueue on `stream` (a cudaStream_t) of the current device; neither allocate nor synchronise.
// Return a cudaError_t: 0, the first launch's error, or cudaErrorInvalidValue for what is said to
// be for CPUs only and for gradients of images that are too large for deterministic mode.
DCN_API int dcn_cuda_forward(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                             void* workspace, void* stream, int flags);
DCN_API int dcn_cuda_backward(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                              void* workspace, void* stream, int flags);

DCN_API const char* dcn_cuda_error_name(int error);

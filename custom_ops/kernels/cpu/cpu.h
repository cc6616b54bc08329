// The CPU kernels' interface. Results do not depend on the number of threads.
#pragma once

#include <cstddef>

#include "../problem.h"

namespace dcn {
namespace cpu {

// Bytes of scratch memory that forward()/backward() need for this problem on so many threads.
size_t forward_workspace(const Problem& problem, int threads);
size_t backward_workspace(const Problem& problem, const BackwardTensors& tensors, int threads);

// Neither throws nor allocates. `workspace` is 64-byte aligned, contents arbitrary.
void forward(const Problem& problem, const ForwardTensors& tensors, void* workspace, int threads);
void backward(const Problem& problem, const BackwardTensors& tensors, void* workspace, int threads);

// Paddle's number of threads, which is that of its OpenMP runtime.
int max_threads();

// The instruction set in use: "baseline", "avx2" or "avx512". The environment variable
// PADDLE_DCN_INSTRUCTION_SET, read once, chooses a lower one than the processor has.
const char* instruction_set();

}  // namespace cpu
}  // namespace dcn

// All CPU kernels, compiled into namespace dcn::cpu::DCN_ISA. The source file of an instruction
// set includes the headers outside this folder, sets its target and includes this file once.
//
// The namespace keeps functions of one name but different instructions apart at link time.

// Vectors that are passed are passed between functions that are always inlined: no ABI matters.
#pragma GCC diagnostic ignored "-Wpsabi"

#define DCN_INLINE_MEMBER inline __attribute__((always_inline))

namespace dcn {
namespace cpu {
namespace DCN_ISA {

// clang-format off: in the order in which they need each other.
#include "simd.h"
#include "half.h"
#include "layout.h"
#include "gemm.h"
#include "tile.h"
#include "workspace.h"
#include "team.h"
#include "forward.h"
#include "backward.h"
// clang-format on

static int64_t forward_workspace(const Problem& p, int threads) {
  return p.dtype == DataType::kFloat64 ? forward_bytes<double>(p, threads)
                                       : forward_bytes<float>(p, threads);
}

static int64_t backward_workspace(const Problem& p, const BackwardTensors& wanted, int threads) {
  return p.dtype == DataType::kFloat64 ? backward_bytes<double>(p, wanted, threads)
                                       : backward_bytes<float>(p, wanted, threads);
}

static void run_forward(const Problem& p, const ForwardTensors& tensors, void* workspace,
                        int threads) {
  const auto run = p.dtype == DataType::kFloat64 ? forward<double> : forward<float>;
  run(p, tensors, workspace, threads);
}

static void run_backward(const Problem& p, const BackwardTensors& tensors, void* workspace,
                         int threads) {
  const auto run = p.dtype == DataType::kFloat64 ? backward<double> : backward<float>;
  run(p, tensors, workspace, threads);
}

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

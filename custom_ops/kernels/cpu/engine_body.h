// All CPU kernels, compiled into namespace dcn::cpu::DCN_ISA. The source file of an instruction
// set includes the headers outside this folder and includes this file once, which compiles for
// AVX-512 (F, BW, DQ, VL) where DCN_VECTOR_BYTES is 64, for AVX2 and FMA where it is 32.
//
// The namespace keeps functions of one name but different instructions apart at link time.

#if DCN_VECTOR_BYTES == 64 && defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#elif DCN_VECTOR_BYTES == 64
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#elif DCN_VECTOR_BYTES == 32 && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif DCN_VECTOR_BYTES == 32
#pragma GCC target("avx2,fma")
#endif

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
#include "magnitude.h"
#include "gemm.h"
#ifdef DCN_SPLIT
#include "split.h"
#endif
#include "tile.h"
#include "workspace.h"
#include "team.h"
#include "forward.h"
#include "backward.h"
// clang-format on

// f(product) for the product that a problem is computed with; 0 or false where this instruction set
// has none that would be faster than that of a lower one.
template <typename F>
auto with_product(const Problem& p, F f) {
#ifndef DCN_SPLIT
  return p.dtype == DataType::kFloat64 ? f(VectorProduct<double>()) : f(VectorProduct<float>());
#else
  // Of groups of one channel most of a split product is padding.
  if (p.dtype == DataType::kBFloat16 && p.group_channels() > 1) {
    return f(SplitProduct<1, BFloat16>());
  }
#ifdef DCN_AMX
  if (p.dtype != DataType::kFloat64 && p.group_outputs() > kBlockColumns) {
    return f(SplitProduct<3, float>());
  }
#endif
  return decltype(f(SplitProduct<1, BFloat16>()))();
#endif
}

static int64_t forward_workspace(const Problem& p, int threads) {
  return with_product(p,
                      [&](auto product) { return forward_bytes<decltype(product)>(p, threads); });
}

static int64_t backward_workspace(const Problem& p, const BackwardTensors& wanted, int threads) {
  return with_product(
      p, [&](auto product) { return backward_bytes<decltype(product)>(p, wanted, threads); });
}

static bool run_forward(const Problem& p, const ForwardTensors& tensors, void* workspace,
                        int threads) {
  return with_product(
      p, [&](auto product) { return forward<decltype(product)>(p, tensors, workspace, threads); });
}

static bool run_backward(const Problem& p, const BackwardTensors& tensors, void* workspace,
                         int threads) {
  return with_product(
      p, [&](auto product) { return backward<decltype(product)>(p, tensors, workspace, threads); });
}

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

#if DCN_VECTOR_BYTES >= 32 && defined(__clang__)
#pragma clang attribute pop
#endif

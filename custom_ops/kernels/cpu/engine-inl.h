// An engine: all CPU kernels, compiled for the instruction set of the file that includes this.
#pragma once

#include "backward-inl.h"
#include "forward-inl.h"
#ifdef DCN_SPLIT
#include "split-inl.h"
#endif

namespace dcn {
namespace cpu {
namespace DCN_ISA {

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

const Engine kEngine = {
#ifdef DCN_SPLIT
    &avx512::kEngine,
#else
    nullptr,
#endif
    [](const Problem& p, int threads) {
      return with_product(
          p, [&](auto product) { return forward_bytes<decltype(product)>(p, threads); });
    },
    [](const Problem& p, const BackwardTensors& wanted, int threads) {
      return with_product(
          p, [&](auto product) { return backward_bytes<decltype(product)>(p, wanted, threads); });
    },
    [](const Problem& p, const ForwardTensors& tensors, void* workspace, int threads) {
      return with_product(p, [&](auto product) {
        return forward<decltype(product)>(p, tensors, workspace, threads);
      });
    },
    [](const Problem& p, const BackwardTensors& tensors, void* workspace, int threads) {
      return with_product(p, [&](auto product) {
        return backward<decltype(product)>(p, tensors, workspace, threads);
      });
    }};

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

#if DCN_VECTOR_BYTES >= 32 && defined(__clang__) && !defined(DCN_CPU_EMULATION)
#pragma clang attribute pop  // which clang wants, see isa-inl.h
#endif

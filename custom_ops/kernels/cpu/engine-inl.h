// An engine: all CPU kernels, compiled for the instruction set of the file that includes this.
#pragma once

#include "backward-inl.h"
#include "forward-inl.h"
#ifdef DCN_SPLIT
#include "split-inl.h"
#else
#include "winograd-inl.h"
#endif

namespace dcn::cpu::DCN_ISA {

template <typename Product>
constexpr Kernels kKernels = {Product::kTerms == 1,   packed_bytes<Product>,
                              forward_bytes<Product>, backward_bytes<Product>,
                              forward<Product>,       backward<Product>};
#ifndef DCN_SPLIT
constexpr Kernels kPlainKernels = {true,    winograd_packed_bytes, winograd_bytes,
                                   nullptr, winograd_forward,      nullptr};
#endif

const Kernels* kernels(const Problem& p) {
#ifndef DCN_SPLIT
  if (p.plain) return &kPlainKernels;
  return p.dtype == DataType::kFloat64 ? &kKernels<VectorProduct<double>>
                                       : &kKernels<VectorProduct<float>>;
#else
  if (p.plain) return nullptr;
  // Of groups of one channel most of a split product is padding.
  if (p.dtype == DataType::kBFloat16 && p.group_channels() > 1) {
    return &kKernels<SplitProduct<1, BFloat16>>;
  }
#ifdef DCN_AMX
  if (p.dtype != DataType::kFloat64 && p.group_outputs() > kBlockColumns) {
    return &kKernels<SplitProduct<3, float>>;
  }
#endif
  return nullptr;
#endif
}

}  // namespace dcn::cpu::DCN_ISA

#if DCN_VECTOR_BYTES >= 32 && defined(__clang__) && !defined(DCN_CPU_EMULATION)
#pragma clang attribute pop  // which clang wants, see isa-inl.h
#endif

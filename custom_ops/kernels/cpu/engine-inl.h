// An engine: all CPU kernels, compiled for the instruction set of the file that includes this.
#pragma once

#include "direct-backward-inl.h"
#ifdef DCN_SPLIT
#include "split-inl.h"
#else
#include "winograd-inl.h"
#endif

namespace dcn::cpu::DCN_ISA {

template <typename Product>
constexpr Kernels kKernels = {Product::kTerms == 1,
                              packed_bytes<ForwardBuffers<Product>>,
                              workspace_bytes<ForwardBuffers<Product>, ForwardTensors>,
                              workspace_bytes<BackwardBuffers<Product>, BackwardTensors>,
                              forward<Product>,
                              backward<Product>};
#ifndef DCN_SPLIT
constexpr Kernels kPlainKernels = {true,
                                   packed_bytes<WinogradBuffers>,
                                   workspace_bytes<WinogradBuffers, ForwardTensors>,
                                   nullptr,
                                   winograd_forward,
                                   nullptr};
#endif

template <typename T>
constexpr Kernels kDirectKernels = {true,
                                    packed_bytes<DirectBuffers<T>>,
                                    workspace_bytes<DirectBuffers<T>, ForwardTensors>,
                                    workspace_bytes<DirectBackwardBuffers<T>, BackwardTensors>,
                                    direct_forward<T>,
                                    direct_backward<T>};

// Whether the kernels without columns compute a problem: where groups have fewer channels than a
// vector has lanes, and a product of matrices would be of padding for the most part.
inline bool takes_direct(const Problem& p) {
  if (!p.weighted) return true;  // which columns are not for
  if (p.path == Path::kColumns) return false;
  const int64_t channels = p.group_channels(), outputs = p.group_outputs();
  const bool can = channels == 1
                       ? outputs <= kMaxMultiplier
                       : channels <= kMaxDirectGroup && (channels & (channels - 1)) == 0 &&
                             outputs == channels && p.deformable_channels() % channels == 0;
  const int64_t lanes = p.dtype == DataType::kFloat64 ? kVectorLanes<double> : kVectorLanes<float>;
  return can && (channels < lanes || p.path == Path::kDirect);
}

const Kernels* kernels(const Problem& p) {
#ifndef DCN_SPLIT
  if (p.plain) return &kPlainKernels;
  const bool direct = takes_direct(p);
  if (p.dtype == DataType::kFloat64) {
    return direct ? &kDirectKernels<double> : &kKernels<VectorProduct<double>>;
  }
  return direct ? &kDirectKernels<float> : &kKernels<VectorProduct<float>>;
#else
  if (p.plain || takes_direct(p)) return nullptr;
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

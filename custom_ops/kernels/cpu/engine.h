// The CPU kernels as built for one instruction set.
#pragma once

#include <cstdint>

#include "../problem.h"

#if defined(__x86_64__)
#define DCN_HAS_AVX2
#define DCN_HAS_AVX512
#endif
// Whether the compiler knows them.
#if defined(__x86_64__) && defined(__linux__) && __has_include(<avx512bf16intrin.h>)
#define DCN_HAS_AVX512_BF16
#endif
#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define DCN_HAS_AMX
#endif

namespace dcn::cpu {

// What computes a problem, for one instruction set and type of product.
struct Kernels {
  // Else they return false, results undefined, for values that they cannot compute with accurately.
  bool take_any_values;
  int64_t (*packed_bytes)(const Problem&);
  int64_t (*forward_workspace)(const Problem&, const ForwardTensors&, int threads);
  int64_t (*backward_workspace)(const Problem&, const BackwardTensors&, int threads);
  bool (*forward)(const Problem&, const ForwardTensors&, void* workspace, int threads);
  bool (*backward)(const Problem&, const BackwardTensors&, void* workspace, int threads);
};

// Each in its own engine_*.cc, where DCN_HAS_* is defined. Null for problems of other data types
// and shapes than the instruction set computes faster than the ones before it.
namespace baseline {
const Kernels* kernels(const Problem&);
}
namespace avx2 {
const Kernels* kernels(const Problem&);
}
namespace avx512 {
const Kernels* kernels(const Problem&);
}
namespace avx512_bf16 {
const Kernels* kernels(const Problem&);
}
namespace amx {
const Kernels* kernels(const Problem&);
}

// Those of an engine, by its number, see dcn.h.
const Kernels* kernels(int engine, const Problem&);

// See dcn_cpu_bfloat16_time(); on processors that have the instructions.
double measure_bfloat16_time();

}  // namespace dcn::cpu

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

namespace dcn {
namespace cpu {

struct Engine {
  // What computes where this one returns false.
  const Engine* lower;
  int64_t (*forward_workspace)(const Problem&, int threads);
  int64_t (*backward_workspace)(const Problem&, const BackwardTensors&, int threads);
  // They return false for data types they are not for, and, results undefined, for values that
  // they cannot compute with accurately.
  bool (*forward)(const Problem&, const ForwardTensors&, void* workspace, int threads);
  bool (*backward)(const Problem&, const BackwardTensors&, void* workspace, int threads);
};

// Each in its own engine_*.cc, where DCN_HAS_* is defined.
namespace baseline {
extern const Engine kEngine;
}
namespace avx2 {
extern const Engine kEngine;
}
namespace avx512 {
extern const Engine kEngine;
}
namespace avx512_bf16 {
extern const Engine kEngine;
}
namespace amx {
extern const Engine kEngine;
}

// The engine of this number, see dcn.h.
const Engine& engine(int number);

}  // namespace cpu
}  // namespace dcn

// The CPU kernels as built for one instruction set.
#pragma once

#include <cstdint>

#include "../problem.h"

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
  const char* name;
  // What computes where this one returns false.
  const Engine* lower;
  int64_t (*forward_workspace)(const Problem&, int threads);
  int64_t (*backward_workspace)(const Problem&, const BackwardTensors&, int threads);
  // They return false for data types they are not for, and, results undefined, for values that
  // they cannot compute with accurately.
  bool (*forward)(const Problem&, const ForwardTensors&, void* workspace, int threads);
  bool (*backward)(const Problem&, const BackwardTensors&, void* workspace, int threads);
};

extern const Engine kBaseline;
#if defined(__x86_64__)
extern const Engine kAvx2;
extern const Engine kAvx512;
#endif
#ifdef DCN_HAS_AVX512_BF16
extern const Engine kAvx512Bf16;
#endif
#ifdef DCN_HAS_AMX
extern const Engine kAmx;
#endif

// All of these, lowest first.
extern const Engine* const kEngines[];

}  // namespace cpu
}  // namespace dcn

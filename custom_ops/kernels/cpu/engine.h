// The CPU kernels as built for one instruction set.
#pragma once

#include <cstdint>

#include "../problem.h"

namespace dcn {
namespace cpu {

struct Engine {
  const char* name;
  int64_t (*forward_workspace)(const Problem&, int threads);
  int64_t (*backward_workspace)(const Problem&, const BackwardTensors&, int threads);
  void (*forward)(const Problem&, const ForwardTensors&, void* workspace, int threads);
  void (*backward)(const Problem&, const BackwardTensors&, void* workspace, int threads);
};

extern const Engine kBaseline;
#if defined(__x86_64__)
extern const Engine kAvx2;
extern const Engine kAvx512;
#endif

}  // namespace cpu
}  // namespace dcn

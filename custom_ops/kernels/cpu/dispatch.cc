// Chooses the instruction set once, at the first call.
#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "engine.h"

namespace dcn {
namespace cpu {
namespace {

const Engine& choose_engine() {
  const Engine* engine = &kBaseline;
#if defined(__x86_64__)
  const char* wanted = std::getenv("PADDLE_DCN_INSTRUCTION_SET");
  const auto allowed = [&](const Engine& candidate, bool supported) {
    // The wanted one ends the search upwards.
    const bool reached = wanted != nullptr && std::strcmp(wanted, engine->name) == 0;
    if (supported && !reached) engine = &candidate;
  };
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  allowed(kAvx2, avx2);
  allowed(kAvx512, avx512);
#endif
  return *engine;
}

const Engine& engine() {
  static const Engine& chosen = choose_engine();
  return chosen;
}

}  // namespace

size_t forward_workspace(const Problem& problem, int threads) {
  return static_cast<size_t>(engine().forward_workspace(problem, threads));
}

size_t backward_workspace(const Problem& problem, const BackwardTensors& tensors, int threads) {
  return static_cast<size_t>(engine().backward_workspace(problem, tensors, threads));
}

void forward(const Problem& problem, const ForwardTensors& tensors, void* workspace, int threads) {
  engine().forward(problem, tensors, workspace, threads);
}

void backward(const Problem& problem, const BackwardTensors& tensors, void* workspace,
              int threads) {
  engine().backward(problem, tensors, workspace, threads);
}

const char* instruction_set() { return engine().name; }

}  // namespace cpu
}  // namespace dcn

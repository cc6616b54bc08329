// Chooses the instruction set once, at the first call.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "engine.h"
#if defined(DCN_HAS_AVX512_BF16) || defined(DCN_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dcn {
namespace cpu {
namespace {

#ifdef DCN_HAS_AVX512_BF16
bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

#ifdef DCN_HAS_AMX
// Also asks the system for the tile registers, which a process must do once.
bool has_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 22, kTile = 24;
  if (!(d >> kBf16 & 1) || !(d >> kTile & 1)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

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
#ifdef DCN_HAS_AVX512_BF16
  // Intel's processors execute these instructions at half the rate, no faster than float32.
  const bool asked = wanted != nullptr && std::strcmp(wanted, kAvx512Bf16.name) == 0;
  allowed(kAvx512Bf16, avx512 && has_avx512_bf16() && (__builtin_cpu_is("amd") || asked));
#endif
#ifdef DCN_HAS_AMX
  allowed(kAmx, avx512 && has_avx512_bf16() && has_amx());
#endif
#endif
  return *engine;
}

const Engine& engine() {
  static const Engine& chosen = choose_engine();
  return chosen;
}

}  // namespace

size_t forward_workspace(const Problem& problem, int threads) {
  int64_t bytes = 0;
  for (const Engine* e = &engine(); e != nullptr; e = e->lower) {
    bytes = std::max(bytes, e->forward_workspace(problem, threads));
  }
  return static_cast<size_t>(bytes);
}

size_t backward_workspace(const Problem& problem, const BackwardTensors& tensors, int threads) {
  int64_t bytes = 0;
  for (const Engine* e = &engine(); e != nullptr; e = e->lower) {
    bytes = std::max(bytes, e->backward_workspace(problem, tensors, threads));
  }
  return static_cast<size_t>(bytes);
}

void forward(const Problem& problem, const ForwardTensors& tensors, void* workspace, int threads) {
  const Engine* e = &engine();
  while (!e->forward(problem, tensors, workspace, threads)) e = e->lower;
}

void backward(const Problem& problem, const BackwardTensors& tensors, void* workspace,
              int threads) {
  const Engine* e = &engine();
  while (!e->backward(problem, tensors, workspace, threads)) e = e->lower;
}

const char* instruction_set() { return engine().name; }

}  // namespace cpu
}  // namespace dcn

// Which engines this library has, which of them the processor runs, and which is best.
#include "../dcn.h"
#include "engine.h"
#if defined(DCN_HAS_AVX512_BF16) || defined(DCN_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dcn {
namespace cpu {

const Engine* const kEngines[] = {
    &kBaseline,
#if defined(__x86_64__)
    &kAvx2,       &kAvx512,
#endif
#ifdef DCN_HAS_AVX512_BF16
    &kAvx512Bf16,
#endif
#ifdef DCN_HAS_AMX
    &kAmx,
#endif
};

namespace {

constexpr int kEngineCount = sizeof(kEngines) / sizeof(kEngines[0]);

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#ifdef DCN_HAS_AVX512_BF16
bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

#ifdef DCN_HAS_AMX
// Also asks the system for the tile registers, which a process must do once.
bool has_amx() {
  unsigned a, b, c, d;
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 22, kTile = 24;
  if (!(d >> kBf16 & 1) || !(d >> kTile & 1)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

bool runs(const Engine* engine) {
#if defined(__x86_64__)
  if (engine == &kAvx2) return has_avx2();
  if (engine == &kAvx512) return has_avx512();
#endif
#ifdef DCN_HAS_AVX512_BF16
  if (engine == &kAvx512Bf16) return has_avx512_bf16();
#endif
#ifdef DCN_HAS_AMX
  if (engine == &kAmx) return has_amx();
#endif
  return true;
}

// Whether an engine that runs computes faster than the one it falls back to.
bool pays(const Engine* engine, DataType dtype) {
#ifdef DCN_HAS_AVX512_BF16
  // Intel's processors execute its products at half the rate, no faster than float32.
  if (engine == &kAvx512Bf16) return dtype == DataType::kBFloat16 && __builtin_cpu_is("amd");
#endif
#ifdef DCN_HAS_AMX
  if (engine == &kAmx) return dtype != DataType::kFloat64;
#endif
  (void)engine, (void)dtype;
  return true;
}

}  // namespace
}  // namespace cpu
}  // namespace dcn

int dcn_cpu_engines() { return dcn::cpu::kEngineCount; }

const char* dcn_cpu_engine_name(int engine) { return dcn::cpu::kEngines[engine]->name; }

int dcn_cpu_engine_runs(int engine) { return dcn::cpu::runs(dcn::cpu::kEngines[engine]); }

int dcn_cpu_default_engine(dcn::DataType dtype, int limit) {
  using namespace dcn::cpu;
  for (int i = limit < 0 ? kEngineCount - 1 : limit; i > 0; --i) {
    if (runs(kEngines[i]) && (i == limit || pays(kEngines[i], dtype))) return i;
  }
  return 0;
}

// Which engines this library has, which of them the processor runs, and which is best.
#include "../dcn.h"
#include "engine.h"
#ifdef DCN_HAS_AMX
#include <cpuid.h>

#include "amx_tiles.h"
#endif

namespace dcn::cpu {
namespace {

#ifdef DCN_HAS_AVX2
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

#ifdef DCN_HAS_AVX512
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#ifdef DCN_HAS_AVX512_BF16
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

#ifdef DCN_HAS_AMX
bool has_amx() {
  unsigned a, b, c, d;
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 22, kTile = 24;
  if (!(d >> kBf16 & 1) || !(d >> kTile & 1)) return false;
  return ask_for_tiles();
}
#endif

// An instruction set: does the processor have it, and is it faster than the one before it?
struct Row {
  const char* name;
  const Kernels* (*kernels)(const Problem&);
  bool (*runs)();
  bool (*pays)(DataType);
};

bool always() { return true; }
bool for_any(DataType) { return true; }

constexpr Row kEngines[] = {
    {"baseline", baseline::kernels, always, for_any},
#ifdef DCN_HAS_AVX2
    {"avx2", avx2::kernels, has_avx2, for_any},
#endif
#ifdef DCN_HAS_AVX512
    {"avx512", avx512::kernels, has_avx512, for_any},
#endif
#ifdef DCN_HAS_AVX512_BF16
    {"avx512_bf16", avx512_bf16::kernels, has_avx512_bf16,
     [](DataType dtype) {
       return dtype == DataType::kBFloat16 && dcn_cpu_bfloat16_pays(dcn_cpu_bfloat16_time()) != 0;
     }},
#endif
#ifdef DCN_HAS_AMX
    {"amx", amx::kernels, has_amx, [](DataType dtype) { return dtype != DataType::kFloat64; }},
#endif
};
constexpr int kCount = sizeof(kEngines) / sizeof(kEngines[0]);

}  // namespace

const Kernels* kernels(int engine, const Problem& p) { return kEngines[engine].kernels(p); }

}  // namespace dcn::cpu

void dcn_cpu_struct_bytes(size_t bytes[3]) {
  bytes[0] = sizeof(dcn::Problem);
  bytes[1] = sizeof(dcn::ForwardTensors);
  bytes[2] = sizeof(dcn::BackwardTensors);
}

int dcn_cpu_engines() { return dcn::cpu::kCount; }

const char* dcn_cpu_engine_name(int engine) { return dcn::cpu::kEngines[engine].name; }

int dcn_cpu_engine_runs(int engine) {
#ifdef DCN_CPU_EMULATION
  (void)engine;
  return 1;  // see isa-inl.h
#else
  return dcn::cpu::kEngines[engine].runs();
#endif
}

double dcn_cpu_bfloat16_time() {
#ifdef DCN_HAS_AVX512_BF16
  static const double time = dcn::cpu::has_avx512_bf16() ? dcn::cpu::measure_bfloat16_time() : 0.0;
  return time;
#else
  return 0;
#endif
}

int dcn_cpu_bfloat16_pays(double time) {
  constexpr double kLimit = 1.4;  // of the two kinds of processors, 1 and 2, as far from either
  return time > 0 && time < kLimit;
}

int dcn_cpu_default_engine(dcn::DataType dtype, int limit) {
  using namespace dcn::cpu;
  for (int i = limit < 0 ? kCount - 1 : limit; i > 0; --i) {
    if (dcn_cpu_engine_runs(i) && (i == limit || kEngines[i].pays(dtype))) return i;
  }
  return 0;
}

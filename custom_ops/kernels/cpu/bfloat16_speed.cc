// How fast the processor multiplies bfloat16, which decides between avx512_bf16 and avx512.
//
// One vdpbf16ps does the work of two vfmadd231ps. Some processors take as long for it as for one of
// them (AMD's Zen 4), others twice as long (Intel's, AMD's Zen 5): then nothing pays for splitting
// the operands. CPUID does not say which, so it is measured.
#include <algorithm>
#include <chrono>

#include "engine.h"

#ifdef DCN_HAS_AVX512_BF16

namespace dcn::cpu {
namespace {

// Runs 256 times 12 instructions that do not wait for each other. They are in assembly throughout,
// so that this file needs no target that the processor may lack.
template <bool kBFloat16>
double seconds() {
  const auto start = std::chrono::steady_clock::now();
  int64_t rounds = 256;
  asm volatile(
      "vpxor %%xmm0, %%xmm0, %%xmm0\n"
      ".irp sum, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12\n"
      "vmovaps %%zmm0, %%zmm\\sum\n"
      ".endr\n"
      "1:\n"
      ".irp sum, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12\n"
      ".if %c1\n"
      "vdpbf16ps %%zmm0, %%zmm0, %%zmm\\sum\n"
      ".else\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm\\sum\n"
      ".endif\n"
      ".endr\n"
      "dec %0\n"
      "jnz 1b\n"
      "vzeroupper"
      : "+r"(rounds)
      : "i"(kBFloat16)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm12");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

// The least of several times each, in turn: what else runs on the machine only adds to them.
double measure_bfloat16_time() {
  double bfloat16 = seconds<true>(), float32 = seconds<false>();
  for (int i = 0; i < 7; ++i) {
    bfloat16 = std::min(bfloat16, seconds<true>());
    float32 = std::min(float32, seconds<false>());
  }
  return bfloat16 / float32;
}

}  // namespace dcn::cpu

#endif  // DCN_HAS_AVX512_BF16

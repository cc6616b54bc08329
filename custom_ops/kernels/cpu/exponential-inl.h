// The exponential, so that loops over it run on vectors, and what is made of it.
#pragma once

#include "simd-inl.h"

namespace dcn::cpu::DCN_ISA {

// exp(v) = 2^n * exp(r), where n is the integer next to v / ln 2. Of r, at most ln 2 / 2 away from
// 0, by Taylor's series, whose remainder is below 2^-27. At least the smallest normal number.
DCN_INLINE float exponential(float v) {
  constexpr float kLog2E = 1.44269504f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // sum: ln 2
  constexpr float kRound = 12582912;  // 1.5 * 2^23: the sum's last bits are the integer
  constexpr float kLeast = -87.3f, kMost = 89;
  const float bounded = v < kLeast ? kLeast : v > kMost ? kMost : v;
  const float shifted = bounded * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = bounded - n * kHigh - n * kLow;
  const float fourth = ((r * (1.f / 5040) + 1.f / 720) * r + 1.f / 120) * r + 1.f / 24;
  const float sum = (((fourth * r + 1.f / 6) * r + 1.f / 2) * r + 1) * r + 1;
  const uint32_t exponent = bit_cast<uint32_t>(shifted) - bit_cast<uint32_t>(kRound) + 127;
  return sum * bit_cast<float>(exponent << 23);  // of 255: infinity
}
DCN_INLINE double exponential(double v) { return __builtin_exp(v); }

template <typename T>
DCN_INLINE T hyperbolic_tangent(T v) {
  return 1 - 2 / (exponential(2 * v) + 1);
}

}  // namespace dcn::cpu::DCN_ISA

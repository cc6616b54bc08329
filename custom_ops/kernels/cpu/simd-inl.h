// Vectors of the instruction set, without intrinsics.
#pragma once

#include "isa-inl.h"

namespace dcn::cpu::DCN_ISA {

template <typename T>
constexpr int kVectorLanes = DCN_VECTOR_BYTES / sizeof(T);

template <int kLanes, typename T>
DCN_INLINE Vector<T, kLanes> load(const T* p) {
  return *reinterpret_cast<const Vector<T, kLanes>*>(p);
}
template <int kLanes, typename T>
DCN_INLINE void store(T* p, Vector<T, kLanes> v) {
  *reinterpret_cast<Vector<T, kLanes>*>(p) = v;
}

// Each of the lanes with zeros in front.
template <int kLanes>
DCN_INLINE Vector<uint32_t, kLanes> widen(Vector<uint16_t, kLanes> v) {
#if DCN_VECTOR_BYTES == 64
  if constexpr (kLanes == 16) return widen_lanes(v);
#endif
  return __builtin_convertvector(v, Vector<uint32_t, kLanes>);
}

template <typename To, typename From>
DCN_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// A number that a function takes as the type of an argument.
template <int n>
using Constant = std::integral_constant<int, n>;

// Calls f(Constant<n>, start) over [0, count) in pieces of n = kLanes, kLanes / 2, ... 1 elements.
template <int kLanes, typename F>
DCN_INLINE void for_lanes(int64_t count, F f, int64_t start = 0) {
  for (; start + kLanes <= count; start += kLanes) f(Constant<kLanes>(), start);
  if constexpr (kLanes > 1) {
    if (start < count) for_lanes<kLanes / 2>(count, f, start);
  }
}

// Lanes of a and, from 4 on, of b, of four lanes each.
#if defined(__clang__)
#define DCN_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define DCN_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, decltype((a) < (b)){i, j, k, l})
#endif

// dst[j][i] = src[i][j] for a block of 4 x 4.
template <typename T>
DCN_INLINE void transpose4x4(const T* s0, const T* s1, const T* s2, const T* s3, T* d0, T* d1,
                             T* d2, T* d3) {
  const auto a = load<4>(s0), b = load<4>(s1), c = load<4>(s2), d = load<4>(s3);
  const auto ab_low = DCN_SHUFFLE4(a, b, 0, 4, 1, 5), ab_high = DCN_SHUFFLE4(a, b, 2, 6, 3, 7);
  const auto cd_low = DCN_SHUFFLE4(c, d, 0, 4, 1, 5), cd_high = DCN_SHUFFLE4(c, d, 2, 6, 3, 7);
  store<4>(d0, DCN_SHUFFLE4(ab_low, cd_low, 0, 1, 4, 5));
  store<4>(d1, DCN_SHUFFLE4(ab_low, cd_low, 2, 3, 6, 7));
  store<4>(d2, DCN_SHUFFLE4(ab_high, cd_high, 0, 1, 4, 5));
  store<4>(d3, DCN_SHUFFLE4(ab_high, cd_high, 2, 3, 6, 7));
}

// Adds the sums over lanes of four vectors to sums[0..3].
template <int kLanes, typename T>
DCN_INLINE void add_lane_sums(Vector<T, kLanes> a, Vector<T, kLanes> b, Vector<T, kLanes> c,
                              Vector<T, kLanes> d, T* sums) {
  if constexpr (kLanes > 4) {
    constexpr int kHalf = kLanes / 2;
    struct Halves {
      Vector<T, kHalf> low, high;
    };
    const auto fold = [](Vector<T, kLanes> v) __attribute__((always_inline)) {
      const Halves h = bit_cast<Halves>(v);
      return h.low + h.high;
    };
    add_lane_sums<kHalf, T>(fold(a), fold(b), fold(c), fold(d), sums);
  } else if constexpr (kLanes == 4) {
    const auto ab = DCN_SHUFFLE4(a, b, 0, 4, 1, 5) + DCN_SHUFFLE4(a, b, 2, 6, 3, 7);
    const auto cd = DCN_SHUFFLE4(c, d, 0, 4, 1, 5) + DCN_SHUFFLE4(c, d, 2, 6, 3, 7);
    const auto sum = DCN_SHUFFLE4(ab, cd, 0, 1, 4, 5) + DCN_SHUFFLE4(ab, cd, 2, 3, 6, 7);
    store<4>(sums, load<4>(sums) + sum);
  } else {
    for (int i = 0; i < kLanes; ++i) {
      sums[0] += a[i];
      sums[1] += b[i];
      sums[2] += c[i];
      sums[3] += d[i];
    }
  }
}

}  // namespace dcn::cpu::DCN_ISA

// float16 and bfloat16 as bit patterns, converted without branches so that loops vectorise.
#pragma once

#include "simd-inl.h"

namespace dcn::cpu::DCN_ISA {

DCN_INLINE float bits_to_float(uint32_t bits) { return bit_cast<float>(bits); }
DCN_INLINE uint32_t float_to_bits(float value) { return bit_cast<uint32_t>(value); }

struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  DCN_INLINE_MEMBER explicit BFloat16(float value) {
    const uint32_t wide = float_to_bits(value);
    const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;  // to nearest even
    const uint32_t quiet_nan = (wide >> 16) | 0x40u;
    bits = static_cast<uint16_t>((wide & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
  }
  DCN_INLINE_MEMBER operator float() const {
    return bits_to_float(static_cast<uint32_t>(bits) << 16);
  }
};

struct Float16 {
  uint16_t bits;

  Float16() = default;
  DCN_INLINE_MEMBER explicit Float16(float value) {
    const uint32_t wide = float_to_bits(value);
    const uint32_t magnitude = wide & 0x7fffffffu;
    const uint32_t sign = (wide >> 16) & 0x8000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Adding 0.5 leaves a subnormal result, rounded to nearest even, in the low mantissa bits.
    const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
    result = magnitude >= 0x477ff000u ? 0x7c00u : result;  // 65520 and above round to infinity
    result = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : result;
    bits = static_cast<uint16_t>(sign | result);
  }
  // Multiplying by 2^112 moves the exponent bias from 15 to 127 and makes subnormals normal.
  DCN_INLINE_MEMBER operator float() const {
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    const float scaled = bits_to_float(magnitude) * bits_to_float(0x77800000u);
    const uint32_t finite = float_to_bits(scaled);
    const uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN keeps its payload
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    return bits_to_float(sign | ((bits & 0x7c00u) == 0x7c00u ? special : finite));
  }
};

// Vectors of the type that everything is computed in.
template <int kLanes, typename T>
DCN_INLINE auto load_value(const T* p) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto bits = load<kLanes>(reinterpret_cast<const uint16_t*>(p));
    return bit_cast<Vector<float, kLanes>>(widen<kLanes>(bits) << 16);
  } else {
    return load<kLanes>(p);
  }
}

}  // namespace dcn::cpu::DCN_ISA

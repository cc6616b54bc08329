// When a product from bfloat16 terms will do, see split-inl.h.
#pragma once

#include "half-inl.h"

namespace dcn::cpu::DCN_ISA {

// The largest of some magnitudes, as bits: they sort as the magnitudes do, then infinity, then NaN.
inline uint32_t largest_magnitude(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = float_to_bits(values[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// The largest magnitude of some float32 values.
class Magnitude {
 public:
  void include(const float* values, int64_t count) {
    include_bits(largest_magnitude(values, count));
  }
  // Several threads may call it at a time.
  void include_bits(uint32_t bits) {
    uint32_t seen = __atomic_load_n(&bits_, __ATOMIC_RELAXED);
    while (bits > seen && !__atomic_compare_exchange_n(&bits_, &seen, bits, true, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED)) {
    }
  }

  uint32_t bits() const { return bits_; }

  // Of the values' products.
  Magnitude times(const Magnitude& other) const {
    Magnitude product;
    if (bits_ == 0 || other.bits_ == 0) return product;
    const float value = bits_to_float(bits_) * bits_to_float(other.bits_);
    const uint32_t bits = largest_magnitude(&value, 1);
    product.bits_ = bits > 0 ? bits : 1;
    return product;
  }

  // Whether products of values up to these magnitudes are as accurate from bfloat16 terms as in
  // float32: nothing is infinite or NaN, whose terms are not, and terms and products that count as
  // 0 because they are subnormal are too small to matter.
  bool split_is_accurate_with(const Magnitude& other) const {
    const uint32_t a = bits_ >> 23, b = other.bits_ >> 23;  // exponents plus 127
    if (a > kHighest || b > kHighest) return false;
    return bits_ == 0 || other.bits_ == 0 || (a >= kLowest && b >= kLowest && a + b >= kLowestSum);
  }

 private:
  static constexpr uint32_t kHighest = 127 + 120, kLowest = 127 - 90, kLowestSum = 2 * 127 - 70;

  uint32_t bits_ = 0;
};

}  // namespace dcn::cpu::DCN_ISA

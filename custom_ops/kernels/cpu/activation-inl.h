// What inference does with a convolution's sums before they are written.
#pragma once

#include "layout-inl.h"

namespace dcn::cpu::DCN_ISA {

// Of each of the rows, which are `stride` apart, the first `count` values. NaN stays NaN.
template <typename T>
void activate(const Problem& p, int64_t rows, int64_t count, T* values, int64_t stride) {
  const T slope = static_cast<T>(p.negative_slope), bound = static_cast<T>(p.upper_bound);
  if (slope == 1 && bound == std::numeric_limits<T>::infinity()) return;
  for (int64_t t = 0; t < rows; ++t) {
    T* const row = values + t * stride;
    for (int64_t m = 0; m < count; ++m) {
      const T below = slope == 0 ? 0 : slope * row[m];  // also of infinity
      const T value = row[m] < 0 ? below : row[m];
      row[m] = value > bound ? bound : value;
    }
  }
}

}  // namespace dcn::cpu::DCN_ISA

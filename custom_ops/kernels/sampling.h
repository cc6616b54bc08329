// Bilinear sampling with zero padding: the formulas, for every device.
//
//   S(img, y, x) = sum over a, b in {0, 1} of w_ab * img[y0 + a][x0 + b], corners inside the image
//
// and 0 unless -1 < y < H and -1 < x < W. With g the gradient of mask * S, per channel, and
// D_ab = sum over channels of g * img[y0 + a][x0 + b] (0 for corners outside), the gradients are
//
//   of the mask                 sum over a, b of w_ab * D_ab
//   of y                        mask * ((1 - lx) * (D_10 - D_00) + lx * (D_11 - D_01))
//   of x                        mask * ((1 - ly) * (D_01 - D_00) + ly * (D_11 - D_10))
//   of img[y0 + a][x0 + b]      mask * w_ab * g
#pragma once

#include "problem.h"

namespace dcn {

template <typename T>
struct Sample {
  int32_t y0, x0;  // the top-left corner; (-2, -2), no corner of which is inside, samples nothing
  T ly, lx;        // distance from that corner, in pixels, from 0 to 1
};

// Where tap k of output index i samples before its offset is added, in pixels.
DCN_INLINE int64_t tap_origin(int64_t i, int64_t k, int64_t stride, int64_t pad, int64_t dilation) {
  return i * stride - pad + k * dilation;
}

// floor(), written so that a loop over pixels vectorises on every instruction set.
template <typename T>
DCN_INLINE int32_t floor_to_int(T v) {
  const int32_t truncated = static_cast<int32_t>(v);
  return truncated - (v < static_cast<T>(truncated) ? 1 : 0);
}

// NaN and infinite coordinates fail the comparisons, so they sample nothing. The comparisons are
// joined by & for the same reason as above.
template <typename T>
DCN_INLINE Sample<T> locate(T y, T x, T height, T width) {
  const bool inside = (y > T(-1)) & (y < height) & (x > T(-1)) & (x < width);
  const T safe_y = inside ? y : T(-2);
  const T safe_x = inside ? x : T(-2);
  const int32_t y0 = floor_to_int(safe_y);
  const int32_t x0 = floor_to_int(safe_x);
  return {y0, x0, safe_y - static_cast<T>(y0), safe_x - static_cast<T>(x0)};
}

template <typename T>
struct CornerWeights {
  T w00, w01, w10, w11;
};

template <typename T>
DCN_INLINE CornerWeights<T> corner_weights(T ly, T lx) {
  const T hy = T(1) - ly, hx = T(1) - lx;
  return {hy * hx, hy * lx, ly * hx, ly * lx};
}

// The two coordinate gradients before the mask factor, from the four D_ab.
template <typename T>
DCN_INLINE T y_gradient(T lx, T d00, T d01, T d10, T d11) {
  return (T(1) - lx) * (d10 - d00) + lx * (d11 - d01);
}
template <typename T>
DCN_INLINE T x_gradient(T ly, T d00, T d01, T d10, T d11) {
  return (T(1) - ly) * (d01 - d00) + ly * (d11 - d10);
}

}  // namespace dcn

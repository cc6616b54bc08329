// The gradients of offset and mask, from the sums over channels that sampling.h calls D_ab.
#pragma once

#include "sampler.cuh"

namespace dcn {
namespace cuda {

// Those of one (pixel, tap, deformable group), 0 where the sample lies outside the image. A null
// gradient is not wanted.
template <typename T, typename Index>
DCN_DEVICE void write_coordinate_gradients(const Geometry<Index>& g, const Inputs<T>& in,
                                           const Pixel<Index>& pixel, Index tap,
                                           Index deformable_group, const Sample<Sum<T>>& sample,
                                           Sum<T> mask, const Sum<T>* d, void* grad_offset,
                                           void* grad_mask) {
  const Index plane = (pixel.image * g.deformable_groups + deformable_group) * g.taps + tap;
  const Index at = pixel.row * g.out_width + pixel.column;
  const auto write = [&](void* to, Index index, Sum<T> value) {
    if (in.offset_is_float) {
      static_cast<float*>(to)[index] = static_cast<float>(value);
    } else {
      static_cast<T*>(to)[index] = Element<T>::store(value);
    }
  };
  const bool inside = sample.y0 >= -1;
  if (grad_offset) {
    const Sum<T> by_y = inside ? mask * y_gradient(sample.lx, d[0], d[1], d[2], d[3]) : Sum<T>(0);
    const Sum<T> by_x = inside ? mask * x_gradient(sample.ly, d[0], d[1], d[2], d[3]) : Sum<T>(0);
    write(grad_offset, 2 * plane * g.out_pixels + at, by_y);
    write(grad_offset, (2 * plane + 1) * g.out_pixels + at, by_x);
  }
  if (grad_mask) {
    const CornerWeights<Sum<T>> w = corner_weights(sample.ly, sample.lx);
    Sum<T> by_mask = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) by_mask += corner_weight(w, corner) * d[corner];
    write(grad_mask, plane * g.out_pixels + at, inside ? by_mask : Sum<T>(0));
  }
}

}  // namespace cuda
}  // namespace dcn

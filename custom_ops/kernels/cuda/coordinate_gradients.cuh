// The gradients of offset and mask, from the sums over channels that sampling.h calls D_ab.
#pragma once

#include "sampler.cuh"

namespace dcn {
namespace cuda {

// Those by y, x and mask of one (pixel, tap, deformable group): 0 where the sample lies outside the
// image.
template <typename S>
struct CoordinateGradients {
  S by[3];

  DCN_DEVICE CoordinateGradients() : by{0, 0, 0} {}
  DCN_DEVICE CoordinateGradients(bool inside, S ly, S lx, S mask, const S* d)
      : CoordinateGradients() {
    if (!inside) return;
    by[0] = mask * y_gradient(lx, d[0], d[1], d[2], d[3]);
    by[1] = mask * x_gradient(ly, d[0], d[1], d[2], d[3]);
    const CornerWeights<S> w = corner_weights(ly, lx);
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) by[2] += corner_weight(w, corner) * d[corner];
  }

  // As element `at` of the plane of `pixels` that the tap has in the mask. A null gradient is not
  // wanted.
  template <typename T, typename Index>
  DCN_DEVICE void write(bool as_float, Index plane, Index pixels, Index at, void* grad_offset,
                        void* grad_mask) const {
    const auto write = [&](void* to, Index index, S value) {
      if (as_float) {
        static_cast<float*>(to)[index] = static_cast<float>(value);
      } else {
        static_cast<T*>(to)[index] = Element<T>::store(value);
      }
    };
    if (grad_offset) {
      write(grad_offset, 2 * plane * pixels + at, by[0]);
      write(grad_offset, (2 * plane + 1) * pixels + at, by[1]);
    }
    if (grad_mask) write(grad_mask, plane * pixels + at, by[2]);
  }
};

}  // namespace cuda
}  // namespace dcn

// Where each column element comes from: the problem in index arithmetic, sampling plans, and the
// stream of column vectors that one thread feeds to a product.
//
// Inside the kernels x is "packed": [image, pixel, channel], each segment of channels that shares
// a group and a deformable group padded to whole 16-byte vectors, so that a vector never straddles
// two plans. The reduction of the convolution runs over taps, and within a tap over the packed
// channels of the group.
#pragma once

#include <type_traits>

#include "../sampling.h"
#include "device.cuh"

namespace dcn {
namespace cuda {

template <typename Index>
struct Geometry {
  Index height, width, out_height, out_width, out_pixels;
  Index kernel_width, taps;
  Index stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  Index deformable_groups;
  Index channels, group_channels, deformable_channels;  // packed
  Index pixels;                                         // output pixels of the images at hand
};

// The images at hand, read only.
template <typename T>
struct Inputs {
  const T* x;          // packed
  const void* offset;  // as the caller's, of T or float
  const void* mask;    // likewise; null in v1
  bool offset_is_float;
};

// An output pixel of the images at hand.
template <typename Index>
struct Pixel {
  Index image, row, column;

  DCN_DEVICE Pixel() {}
  DCN_DEVICE Pixel(const Geometry<Index>& g, Index pixel) {
    image = pixel / g.out_pixels;
    const Index rest = pixel - image * g.out_pixels;
    row = rest / g.out_width;
    column = rest - row * g.out_width;
  }
  DCN_DEVICE void advance(const Geometry<Index>& g, Index pixels) {
    column += pixels;
    while (column >= g.out_width) {
      column -= g.out_width;
      if (++row == g.out_height) {
        row = 0;
        ++image;
      }
    }
  }
};

// The offset and mask of one (pixel, tap, deformable group), as read from memory: half types stay
// bits, because to convert them is to wait for the loads.
template <typename T, typename Index>
class Tap {
 public:
  DCN_DEVICE Tap() {}
  DCN_DEVICE Tap(const Geometry<Index>& g, const Inputs<T>& in, const Pixel<Index>& p, Index tap,
                 Index deformable_group) {
    const Index plane = (p.image * g.deformable_groups + deformable_group) * g.taps + tap;
    const Index pixel = p.row * g.out_width + p.column;
    dy_ = read(in, in.offset, 2 * plane * g.out_pixels + pixel);
    dx_ = read(in, in.offset, (2 * plane + 1) * g.out_pixels + pixel);
    if (in.mask) mask_ = read(in, in.mask, plane * g.out_pixels + pixel);
  }

  DCN_DEVICE Sum<T> mask(const Inputs<T>& in) const {
    return in.mask ? value(in, mask_) : Sum<T>(1);
  }
  DCN_DEVICE Sample<Sum<T>> sample(const Geometry<Index>& g, const Inputs<T>& in,
                                   const Pixel<Index>& p, Index tap) const {
    using S = Sum<T>;
    const Index row = tap / g.kernel_width, column = tap - row * g.kernel_width;
    const S y = static_cast<S>(p.row * g.stride_h - g.pad_top + row * g.dilation_h);
    const S x = static_cast<S>(p.column * g.stride_w - g.pad_left + column * g.dilation_w);
    return locate<S>(y + value(in, dy_), x + value(in, dx_), static_cast<S>(g.height),
                     static_cast<S>(g.width));
  }

 private:
  static constexpr bool kBits = sizeof(T) == 2;
  using Raw = std::conditional_t<kBits, uint32_t, Sum<T>>;

  static DCN_DEVICE Raw read(const Inputs<T>& in, const void* from, Index i) {
    if constexpr (kBits) {
      return in.offset_is_float ? static_cast<const uint32_t*>(from)[i]
                                : static_cast<const uint16_t*>(from)[i];
    } else {
      return in.offset_is_float ? static_cast<Raw>(static_cast<const float*>(from)[i])
                                : Element<T>::load(static_cast<const T*>(from)[i]);
    }
  }
  static DCN_DEVICE Sum<T> value(const Inputs<T>& in, Raw raw) {
    if constexpr (kBits) {
      return in.offset_is_float ? reinterpret_cast<const float&>(raw)
                                : Element<T>::load(T{static_cast<uint16_t>(raw)});
    } else {
      return raw;
    }
  }

  Raw dy_, dx_, mask_;
};

// The four corners of a sample in the packed image; bit 2 * a + b of `inside` is corner (a, b).
template <typename Index>
struct Corners {
  Index first;  // element offset of corner (0, 0), channel 0; negative beyond the first row
  unsigned inside;

  DCN_DEVICE Corners(Index first_offset, unsigned inside_bits)
      : first(first_offset), inside(inside_bits) {}
  template <typename S>
  DCN_DEVICE Corners(const Geometry<Index>& g, Index image, const Sample<S>& s) {
    const Index y = s.y0, x = s.x0;
    first = ((image * g.height + y) * g.width + x) * g.channels;
    const unsigned left = x >= 0, right = x + 1 >= 0 && x + 1 < g.width;
    const unsigned columns = left | right << 1;
    inside = (y >= 0 ? columns : 0) | (y + 1 >= 0 && y + 1 < g.height ? columns << 2 : 0);
  }

  DCN_DEVICE Index offset(const Geometry<Index>& g, int corner) const {
    return first + (corner / 2 * g.width + corner % 2) * g.channels;
  }
};

template <typename S>
DCN_DEVICE S corner_weight(const CornerWeights<S>& w, int corner) {
  return corner == 0 ? w.w00 : corner == 1 ? w.w01 : corner == 2 ? w.w10 : w.w11;
}

// Where the vectors of a sample are, and their weights.
template <typename S, typename Index>
struct alignas(8) SamplePlan {
  Index first;  // of Corners
  unsigned inside;
  S weights[4];

  DCN_DEVICE SamplePlan() {}
  template <typename T>
  DCN_DEVICE SamplePlan(const Geometry<Index>& g, const Inputs<T>& in, const Pixel<Index>& p,
                        Index tap, const Tap<T, Index>& t) {
    const Sample<S> sample = t.sample(g, in, p, tap);
    const S mask = t.mask(in);
    const Corners<Index> corners(g, p.image, sample);
    const CornerWeights<S> w = corner_weights(sample.ly, sample.lx);
    first = corners.first;
    inside = corners.inside;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Zero also where the mask is NaN: a corner outside adds nothing.
      weights[i] = inside >> i & 1 ? mask * corner_weight(w, i) : S(0);
    }
  }
  static DCN_DEVICE SamplePlan nowhere() {
    SamplePlan plan;
    plan.first = 0;
    plan.inside = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) plan.weights[i] = 0;
    return plan;
  }
};

// One thread's source of column vectors: aim() at the sample of a tap, load(), and, once the loads
// had time to arrive, blend().
template <typename T, typename Index>
class Sampler {
 public:
  using Plan = SamplePlan<Sum<T>, Index>;

  DCN_DEVICE void aim(const Plan& plan) { plan_ = plan; }
  DCN_DEVICE void aim(const Geometry<Index>& g, const Inputs<T>& in, const Pixel<Index>& p,
                      Index tap, const Tap<T, Index>& t) {
    plan_ = Plan(g, in, p, tap, t);
  }
  DCN_DEVICE void aim_nowhere() { plan_ = Plan::nowhere(); }

  DCN_DEVICE void load(const Geometry<Index>& g, const T* x, Index channel) {
    const Index below = g.width * g.channels;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Index corner = plan_.first + i / 2 * below + i % 2 * g.channels + channel;
      values_[i] = plan_.inside >> i & 1 ? load_vector(x + corner) : uint4{0, 0, 0, 0};
    }
  }

  DCN_DEVICE Vector<T> blend() const {
    Sum<T> sums[Vector<T>::kSize] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Vector<T> v = vector_of<T>(values_[i]);
#pragma unroll
      for (int e = 0; e < Vector<T>::kSize; ++e) {
        sums[e] += plan_.weights[i] * Element<T>::load(v.lane[e]);
      }
    }
    Vector<T> result;
#pragma unroll
    for (int e = 0; e < Vector<T>::kSize; ++e) result.lane[e] = Element<T>::operand(sums[e]);
    return result;
  }

 private:
  Plan plan_;
  uint4 values_[4];
};

}  // namespace cuda
}  // namespace dcn

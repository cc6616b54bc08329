// The deterministic gradient of x: instead of scattering with atomics, every input pixel gathers.
//
// The samples of a range of output pixels are listed by cell, the square between four input pixels
// that a sample lies in. Integer atomics build the lists in any order, a sort puts each in the
// order of its entries, and then each input pixel sums the lists of its four cells.
#pragma once

#include "sampler.cuh"

namespace dcn {
namespace cuda {

template <typename T, typename Index>
struct GatherArguments {
  Geometry<Index> geometry;
  Inputs<T> inputs;
  const Sum<T>* columns;         // [entries][channels]: column gradient times mask
  Sum<T>* grad_x;                // packed
  int* counts;                   // per cell
  int* ends;                     // per cell, once filled; before, where its list goes on
  int* lists;                    // entries, cell by cell
  int* used;                     // length of `lists` so far
  Index first_pixel, end_pixel;  // of one image

  static constexpr int kThreads = 256;
  // An entry is tap * pixels() + pixel - first_pixel.
  DCN_DEVICE Index pixels() const { return end_pixel - first_pixel; }
  DCN_DEVICE Index image() const { return first_pixel / geometry.out_pixels; }
  DCN_DEVICE Index cell(Index deformable_group, Index y0, Index x0) const {
    return (deformable_group * (geometry.height + 1) + y0 + 1) * (geometry.width + 1) + x0 + 1;
  }
  DCN_DEVICE Sample<Sum<T>> sample(Index deformable_group, Index entry) const {
    const Index tap = entry / pixels();
    const Pixel<Index> p(geometry, first_pixel + entry - tap * pixels());
    return Tap<T, Index>(geometry, inputs, p, tap, deformable_group)
        .sample(geometry, inputs, p, tap);
  }
};

// kCount: counts each cell's samples; otherwise writes them to the lists.
template <typename T, typename Index, bool kCount>
__global__ void __launch_bounds__(256) list_cells_kernel(const GatherArguments<T, Index> a) {
  const Geometry<Index>& g = a.geometry;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t entries = int64_t{a.pixels()} * g.taps;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
       i < entries * g.deformable_groups; i += step) {
    const Index deformable_group = static_cast<Index>(i / entries);
    const Index entry = static_cast<Index>(i - deformable_group * entries);
    const Sample<Sum<T>> s = a.sample(deformable_group, entry);
    if (s.y0 < -1) continue;
    const Index cell = a.cell(deformable_group, s.y0, s.x0);
    if (kCount) {
      atomicAdd(a.counts + cell, 1);
    } else {
      a.lists[atomicAdd(a.ends + cell, 1)] = static_cast<int>(entry);
    }
  }
}

template <typename T, typename Index>
__global__ void __launch_bounds__(256)
    place_lists_kernel(const GatherArguments<T, Index> a, int64_t cells) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < cells; i += step) {
    if (a.counts[i] > 0) a.ends[i] = atomicAdd(a.used, a.counts[i]);
  }
}

// Heapsort: in place, and never quadratic, even with all samples in one cell.
DCN_DEVICE void sort_list(int* list, int count) {
  const auto sink = [list](int at, int end) {
    const int value = list[at];
    for (int child; (child = 2 * at + 1) < end; at = child) {
      if (child + 1 < end && list[child] < list[child + 1]) ++child;
      if (list[child] <= value) break;
      list[at] = list[child];
    }
    list[at] = value;
  };
  for (int i = count / 2; i-- > 0;) sink(i, count);
  for (int end = count; end-- > 1;) {
    const int largest = list[0];
    list[0] = list[end];
    list[end] = largest;
    sink(0, end);
  }
}

template <typename T, typename Index>
__global__ void __launch_bounds__(256)
    sort_lists_kernel(const GatherArguments<T, Index> a, int64_t cells) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < cells; i += step) {
    if (a.counts[i] > 1) sort_list(a.lists + a.ends[i] - a.counts[i], a.counts[i]);
  }
}

template <typename T, typename Index>
__global__ void __launch_bounds__(256) gather_kernel(const GatherArguments<T, Index> a) {
  using S = Sum<T>;
  constexpr int kVector = Vector<S>::kSize;
  const Geometry<Index>& g = a.geometry;
  const int64_t step = int64_t{gridDim.x} * blockDim.x, vectors = g.channels / kVector;
  const int64_t size = int64_t{g.height} * g.width * vectors;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    const Index channel = static_cast<Index>(i % vectors) * kVector;
    const Index pixel = static_cast<Index>(i / vectors);
    const Index y = pixel / g.width, x = pixel - y * g.width;
    const Index deformable_group = channel / g.deformable_channels;
    S sums[kVector] = {};
    for (int corner = 0; corner < 4; ++corner) {
      const Index cell = a.cell(deformable_group, y - corner / 2, x - corner % 2);
      const int count = a.counts[cell];
      const int* const list = a.lists + a.ends[cell] - count;
      for (int j = 0; j < count; ++j) {
        const Sample<S> s = a.sample(deformable_group, list[j]);
        const S weight = corner_weight(corner_weights(s.ly, s.lx), corner);
        const Vector<S> v = vector_of<S>(load_vector(a.columns + list[j] * g.channels + channel));
#pragma unroll
        for (int e = 0; e < kVector; ++e) sums[e] += weight * v.lane[e];
      }
    }
    S* const target = a.grad_x + (a.image() * g.height * g.width + pixel) * g.channels + channel;
#pragma unroll
    for (int e = 0; e < kVector; ++e) target[e] += sums[e];
  }
}

}  // namespace cuda
}  // namespace dcn

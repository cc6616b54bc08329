// The forward kernel: an implicit GEMM whose columns are sampled straight into shared memory.
//
// A block owns kRows output channels of one group times kColumns output pixels, and all of the
// reduction or one of `splits` parts, whose sums unpack_kernel adds up. While the product
// of one slice of the reduction runs, the corner loads of the next one are under way in registers
// and the weights of the next two in cp.async buffers; one barrier per slice is enough, because
// what a slice overwrites was last read before the previous barrier.
#pragma once

#include "pipeline.cuh"
#include "sampler.cuh"

namespace dcn {
namespace cuda {

template <typename T, typename Index>
struct ForwardArguments {
  Geometry<Index> geometry;
  Inputs<T> inputs;
  const T* weight;  // packed: [out_channels][taps][group_channels], rounded operands
  const T* bias;
  T* out;
  Sum<T>* partial;  // [splits][pixels][groups][packed_outputs], without bias; or null
  Index groups, group_outputs, packed_outputs, row_tiles;
  Index splits, split_depth;  // whole slices
  bool channels_last;
};

template <typename T, typename Index, typename Product>
constexpr size_t forward_shared_bytes() {
  constexpr size_t kStaged =
      (kStages * Product::kRows + 2 * Product::kColumns) * Slice<T>::kContiguousStride * sizeof(T);
  constexpr size_t kResult = Product::kRows * (Product::kColumns + 1) * sizeof(Sum<T>);
  return (kStaged > kResult ? kStaged : kResult) + Product::kColumns * sizeof(Pixel<Index>);
}

template <typename T, typename Index, typename Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kMinBlocks)
    forward_kernel(const ForwardArguments<T, Index> a) {
  await_earlier_kernels();
  constexpr int kVector = Vector<T>::kSize, kVectors = Slice<T>::kVectors;
  constexpr int kStride = Slice<T>::kContiguousStride;
  constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  constexpr int kThreads = Product::kThreads;
  constexpr int kSamples = kColumns * kVectors / kThreads;  // per thread and slice
  static_assert(kSamples * kThreads == kColumns * kVectors, "every thread samples equally much");
  static_assert(kThreads % kColumns == 0, "a thread's column is fixed when results are written");

  const Geometry<Index>& g = a.geometry;
  const int thread = static_cast<int>(threadIdx.x);
  Index tile = blockIdx.x;
  const Index first_row = tile % a.row_tiles * kRows;
  tile /= a.row_tiles;
  const Index group = tile % a.groups;
  tile /= a.groups;
  const Index split = tile % a.splits, first_pixel = tile / a.splits * kColumns;

  Pixel<Index>* const pixels = reinterpret_cast<Pixel<Index>*>(shared_memory());
  T* const weights = reinterpret_cast<T*>(pixels + kColumns);
  T* const columns = weights + kStages * kRows * kStride;
  const Index reduction = g.taps * g.group_channels;
  const Index begin = split * a.split_depth;
  const Index end = reduction - begin < a.split_depth ? reduction : begin + a.split_depth;
  const int slices =
      static_cast<int>((end - begin + kVectors * kVector - 1) / (kVectors * kVector));

  const auto stage_weights = [&](int slice) {
    if (slice < slices) {
      const T* source = a.weight + group * a.group_outputs * reduction;
      const Index first = begin + static_cast<Index>(slice) * (kVectors * kVector);
      stage<kThreads, kRows, kVectors>(
          weights + slice % kStages * (kRows * kStride), kStride, [&](int row, int vector) {
            const Index m = first_row + row, k = first + vector * kVector;
            return m < a.group_outputs && k < reduction ? source + m * reduction + k
                                                        : static_cast<const T*>(nullptr);
          });
    }
    commit_copies();
  };

  // This thread samples vector `thread % kVectors` of each slice, for kSamples pixels. A plan is
  // kept until the tap or the deformable group changes; what it is made from is read a slice ahead.
  Sampler<T, Index> samplers[kSamples];
  Tap<T, Index> taps[kSamples];
  const Index group_channel = group * g.group_channels;
  Index channel, tap, plan;
  bool changed;
  const auto sampled = [&](int s) { return thread / kVectors + s * (kThreads / kVectors); };
  const auto read_plan = [&] {
    while (channel >= g.group_channels) {
      channel -= g.group_channels;
      ++tap;
    }
    const Index deformable_group =
        g.deformable_groups == 1 ? 0 : (group_channel + channel) / g.deformable_channels;
    const Index next = tap * g.deformable_groups + deformable_group;
    changed = next != plan;
    plan = next;
    if (!changed || tap >= g.taps) return;
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      if (first_pixel + sampled(s) < g.pixels) {
        taps[s] = Tap<T, Index>(g, a.inputs, pixels[sampled(s)], tap, deformable_group);
      }
    }
  };
  const auto load_columns = [&] {
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      if (changed) {
        if (tap < g.taps && first_pixel + sampled(s) < g.pixels) {
          samplers[s].aim(g, a.inputs, pixels[sampled(s)], tap, taps[s]);
        } else {
          samplers[s].aim_nowhere();
        }
      }
      samplers[s].load(g, a.inputs.x, group_channel + channel);
    }
    channel += kVectors * kVector;
    read_plan();
  };

  for (int i = thread; i < kColumns; i += kThreads) pixels[i] = Pixel<Index>(g, first_pixel + i);
  __syncthreads();
  Product product;
  do {
    channel = begin + thread % kVectors * kVector;
    tap = 0;
    plan = -1;
    read_plan();
    stage_weights(0);
    stage_weights(1);
    load_columns();
    for (int slice = 0; slice < slices; ++slice) {
      T* const staged = columns + slice % 2 * (kColumns * kStride);
#pragma unroll
      for (int s = 0; s < kSamples; ++s) {
        store_vector(staged + sampled(s) * kStride + thread % kVectors * kVector,
                     samplers[s].blend());
      }
      wait_copies<1>();
      __syncthreads();
      if (slice + 1 < slices) load_columns();
      stage_weights(slice + 2);
      product.add_contiguous(weights + slice % kStages * (kRows * kStride), staged);
    }
  } while (product.repeat());

  if (a.partial) {
    product.for_each([&](int row, int column, Sum<T> sum) {
      const Index m = first_row + row, pixel = first_pixel + column;
      if (m < a.packed_outputs && pixel < g.pixels) {
        const Index at = (split * g.pixels + pixel) * a.groups + group;
        a.partial[at * a.packed_outputs + m] = sum;
      }
    });
    return;
  }

  // Through shared memory, so that neighbouring threads write neighbouring elements.
  __syncthreads();
  Sum<T>* const result = reinterpret_cast<Sum<T>*>(weights);
  product.for_each(
      [&](int row, int column, Sum<T> sum) { result[row * (kColumns + 1) + column] = sum; });
  __syncthreads();
  const Index channels = a.groups * a.group_outputs, first = group * a.group_outputs + first_row;
  const Index rows = a.group_outputs - first_row < kRows ? a.group_outputs - first_row : kRows;
  const auto value = [&](int row, int column) {
    return Element<T>::store(result[row * (kColumns + 1) + column] +
                             Element<T>::load(a.bias[first + row]));
  };
  if (a.channels_last) {
    for (int i = thread; i < kRows * kColumns; i += kThreads) {
      const int row = i % kRows, column = i / kRows;
      const Index pixel = first_pixel + column;
      if (row < rows && pixel < g.pixels) {
        a.out[pixel * channels + first + row] = value(row, column);
      }
    }
  } else {
    const int column = thread % kColumns;
    const Index pixel = first_pixel + column, image = pixel / g.out_pixels;
    if (pixel < g.pixels) {
      T* const out =
          a.out + (image * channels + first) * g.out_pixels + (pixel - image * g.out_pixels);
      for (int row = thread / kColumns; row < rows; row += kThreads / kColumns) {
        out[row * g.out_pixels] = value(row, column);
      }
    }
  }
}

}  // namespace cuda
}  // namespace dcn

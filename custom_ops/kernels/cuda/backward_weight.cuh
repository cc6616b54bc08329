// The gradient of weight, without atomics: every sum is made in a fixed order.
//
// It is a product over output pixels. A block owns kRows output channels of one
// group times kColumns elements of the reduction of the forward product, and one of `splits`
// ranges of pixels; it samples the columns anew, as the forward kernel does. The ranges' partial
// sums are added up at the end, in order.
#pragma once

#include "pipeline.cuh"
#include "sampler.cuh"

namespace dcn {
namespace cuda {

template <typename T, typename Index>
struct WeightArguments {
  Geometry<Index> geometry;
  Inputs<T> inputs;
  const T* grad_out;  // packed: [pixels][groups][packed_outputs], rounded operands
  Sum<T>* partial;    // [splits][groups][group_outputs][taps][group_channels]
  Index groups, group_outputs, packed_outputs;
  Index row_tiles, column_tiles, split_pixels;
  bool accumulate;  // onto the sums of earlier images
};

template <typename T, typename Product>
constexpr size_t weight_shared_bytes() {
  return (kStages * Slice<T>::template kStridedStride<Product::kRows> +
          2 * Slice<T>::template kStridedStride<Product::kColumns>)*Slice<T>::kDepth *
         sizeof(T);
}

template <typename T, typename Index, typename Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kMinBlocks)
    backward_weight_kernel(const WeightArguments<T, Index> a) {
  constexpr int kVector = Vector<T>::kSize, kDepth = Slice<T>::kDepth;
  constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  constexpr int kRowStride = Slice<T>::template kStridedStride<kRows>;
  constexpr int kColumnStride = Slice<T>::template kStridedStride<kColumns>;
  constexpr int kThreads = Product::kThreads;
  constexpr int kVectors = kColumns / kVector;  // sampled per pixel
  constexpr int kPixelStep = kThreads / kVectors;
  constexpr int kSamples = kDepth / kPixelStep;  // per thread and slice
  static_assert(kSamples * kThreads == kDepth * kVectors, "every thread samples equally much");

  const Geometry<Index>& g = a.geometry;
  const int thread = static_cast<int>(threadIdx.x);
  Index tile = blockIdx.x;
  const Index first_row = tile % a.row_tiles * kRows;
  tile /= a.row_tiles;
  const Index first_column = tile % a.column_tiles * kColumns;
  tile /= a.column_tiles;
  const Index group = tile % a.groups, split = tile / a.groups;
  const Index first_pixel = split * a.split_pixels;
  const Index end_pixel =
      g.pixels - first_pixel < a.split_pixels ? g.pixels : first_pixel + a.split_pixels;
  const int slices = first_pixel < end_pixel
                         ? static_cast<int>((end_pixel - first_pixel + kDepth - 1) / kDepth)
                         : 0;

  T* const rows = reinterpret_cast<T*>(shared_memory());
  T* const columns = rows + kStages * kDepth * kRowStride;
  const auto stage_rows = [&](int slice) {
    if (slice < slices) {
      const Index first = first_pixel + static_cast<Index>(slice) * kDepth;
      stage<kThreads, kDepth, kRows / kVector>(
          rows + slice % kStages * (kDepth * kRowStride), kRowStride, [&](int step, int vector) {
            const Index pixel = first + step, m = first_row + vector * kVector;
            return pixel < end_pixel && m < a.packed_outputs
                       ? a.grad_out + (pixel * a.groups + group) * a.packed_outputs + m
                       : static_cast<const T*>(nullptr);
          });
    }
    commit_copies();
  };

  // This thread samples one vector of channels of one tap, for kSamples pixels of each slice.
  const Index reduction = g.taps * g.group_channels;
  const Index element = first_column + thread % kVectors * kVector;
  const Index tap = element / g.group_channels;
  const Index channel = group * g.group_channels + (element - tap * g.group_channels);
  const Index deformable_group = channel / g.deformable_channels;
  Sampler<T, Index> samplers[kSamples];
  Tap<T, Index> taps[kSamples];
  Pixel<Index> pixels[kSamples];
  Index pixel;  // of the first sample
  const auto valid = [&](int s) {
    return pixel + s * kPixelStep < end_pixel && element < reduction;
  };
  const auto read_plan = [&] {
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      if (valid(s)) taps[s] = Tap<T, Index>(g, a.inputs, pixels[s], tap, deformable_group);
    }
  };
  const auto load_columns = [&] {
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      if (valid(s)) {
        samplers[s].aim(g, a.inputs, pixels[s], tap, taps[s]);
      } else {
        samplers[s].aim_nowhere();
      }
      samplers[s].load(g, a.inputs.x, channel);
      pixels[s].advance(g, kDepth);
    }
    pixel += kDepth;
    read_plan();
  };

  Product product;
  do {
    pixel = first_pixel + thread / kVectors;
#pragma unroll
    for (int s = 0; s < kSamples; ++s) pixels[s] = Pixel<Index>(g, pixel + s * kPixelStep);
    stage_rows(0);
    stage_rows(1);
    read_plan();
    load_columns();
    for (int slice = 0; slice < slices; ++slice) {
      T* const staged = columns + slice % 2 * (kDepth * kColumnStride);
#pragma unroll
      for (int s = 0; s < kSamples; ++s) {
        const int step = thread / kVectors + s * kPixelStep;
        store_vector(staged + step * kColumnStride + thread % kVectors * kVector,
                     samplers[s].blend());
      }
      wait_copies<1>();
      __syncthreads();
      if (slice + 1 < slices) load_columns();
      stage_rows(slice + 2);
      product.add_strided(rows + slice % kStages * (kDepth * kRowStride), staged);
    }
  } while (product.repeat());

  product.for_each([&](int row, int column, Sum<T> sum) {
    const Index m = first_row + row, k = first_column + column;
    if (m < a.group_outputs && k < reduction) {
      const Index at = ((split * a.groups + group) * a.group_outputs + m) * reduction + k;
      a.partial[at] = a.accumulate ? a.partial[at] + sum : sum;
    }
  });
}

}  // namespace cuda
}  // namespace dcn

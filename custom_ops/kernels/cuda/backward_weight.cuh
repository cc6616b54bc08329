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
  Index segment;  // channels that are sampled alike, and how many of these a tile's columns touch
  int segments;
};

template <typename T, typename Index, typename Product>
size_t weight_shared_bytes(int64_t segments) {
  constexpr size_t kStaged = (kStages * Slice<T>::template kStridedStride<Product::kRows> +
                              2 * Slice<T>::template kStridedStride<Product::kColumns>)*sizeof(T);
  return Slice<T>::kDepth *
         (kStaged + 2 * static_cast<size_t>(segments) * sizeof(SamplePlan<Sum<T>, Index>));
}

template <typename T, typename Index, typename Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kMinBlocks)
    backward_weight_kernel(const WeightArguments<T, Index> a) {
  await_earlier_kernels();
  using Plan = SamplePlan<Sum<T>, Index>;
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
  Plan* const plans = reinterpret_cast<Plan*>(columns + 2 * kDepth * kColumnStride);

  constexpr int kRowVectors = kRows / kVector, kRowStep = kThreads / kRowVectors;
  constexpr int kRowCopies = (kDepth - 1) / kRowStep + 1;
  static_assert(kThreads % kRowVectors == 0, "a thread stages one vector of rows");
  const int row_step = thread / kRowVectors, row_vector = thread % kRowVectors * kVector;
  const Index row_pixels = a.groups * a.packed_outputs;
  const T* row_source = nullptr;  // of the next slice's first copy
  const auto stage_rows = [&](int slice) {
    if (slice < slices) {
      T* const target = rows + (slice % kStages * kDepth + row_step) * kRowStride + row_vector;
      const Index first = first_pixel + static_cast<Index>(slice) * kDepth + row_step;
      const bool inside = first_row + row_vector < a.packed_outputs;
#pragma unroll
      for (int i = 0; i < kRowCopies; ++i) {
        if (kDepth % kRowStep == 0 || row_step + i * kRowStep < kDepth) {
          copy_async(target + i * kRowStep * kRowStride, row_source + i * kRowStep * row_pixels,
                     inside && first + i * kRowStep < end_pixel);
        }
      }
      row_source += kDepth * row_pixels;
    }
    commit_copies();
  };

  // The samples' plans of a slice, [segment of the tile's columns][pixel], are made two slices
  // ahead, and what they are made from is read a slice before that. There are at most as many as
  // samples, mostly few.
  const Index reduction = g.taps * g.group_channels;
  const Index first_segment = first_column / a.segment;
  const int plan_step = thread % kDepth;
  static_assert(kThreads % kDepth == 0, "a thread plans one pixel of a slice");
  Tap<T, Index> taps_ahead[kSamples];
  // Calls visit(i, segment) for the plans that this thread makes.
  const auto for_each_plan = [&](const auto& visit) {
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      const int segment = thread / kDepth + i * (kThreads / kDepth);
      if (segment < a.segments) visit(i, segment);
    }
  };
  // Calls visit(pixel, tap, deformable group) if there is such a sample.
  const auto with_sample = [&](int slice, int segment, const auto& visit) {
    const Index pixel = first_pixel + static_cast<Index>(slice) * kDepth + plan_step;
    const Index element = (first_segment + segment) * a.segment;
    if (pixel >= end_pixel || element >= reduction) return;
    const Index tap = element / g.group_channels;
    const Index channel = group * g.group_channels + element - tap * g.group_channels;
    visit(Pixel<Index>(g, pixel), tap, channel / g.deformable_channels);
  };
  const auto read_ahead = [&](int slice) {
    for_each_plan([&](int i, int segment) {
      with_sample(slice, segment, [&](const Pixel<Index>& p, Index tap, Index deformable_group) {
        taps_ahead[i] = Tap<T, Index>(g, a.inputs, p, tap, deformable_group);
      });
    });
  };
  const auto make_plans = [&](int slice) {
    for_each_plan([&](int i, int segment) {
      Plan plan = Plan::nowhere();
      with_sample(slice, segment, [&](const Pixel<Index>& p, Index tap, Index) {
        plan = Plan(g, a.inputs, p, tap, taps_ahead[i]);
      });
      plans[(slice % 2 * a.segments + segment) * kDepth + plan_step] = plan;
    });
    read_ahead(slice + 1);
  };

  // This thread samples one vector of channels of one tap, for kSamples pixels of each slice.
  const Index element = first_column + thread % kVectors * kVector;
  const Index channel = group * g.group_channels + element % g.group_channels;
  const int my_plan =
      static_cast<int>(element / a.segment - first_segment) * kDepth + thread / kVectors;
  Sampler<T, Index> samplers[kSamples];
  const auto load_columns = [&](int slice) {
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      samplers[s].aim(plans[slice % 2 * a.segments * kDepth + my_plan + s * kPixelStep]);
      samplers[s].load(g, a.inputs.x, channel);
    }
  };

  Product product;
  do {
    row_source = a.grad_out + ((first_pixel + row_step) * a.groups + group) * a.packed_outputs +
                 first_row + row_vector;
    stage_rows(0);
    stage_rows(1);
    read_ahead(0);
    make_plans(0);
    make_plans(1);
    __syncthreads();
    load_columns(0);
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
      if (slice + 1 < slices) load_columns(slice + 1);
      make_plans(slice + 2);
      stage_rows(slice + 2);
      product.add_strided(rows + slice % kStages * (kDepth * kRowStride), staged);
    }
  } while (product.repeat());

  product.for_each([&](int row, int column, Sum<T> sum) {
    const Index m = first_row + row, k = first_column + column;
    if (m < a.group_outputs && k < reduction) {
      const Index at = ((split * a.groups + group) * a.group_outputs + m) * reduction + k;
      a.partial[at] = sum;
    }
  });
}

}  // namespace cuda
}  // namespace dcn

// The gradients of x, offset and mask.
//
// A block owns kRows output pixels, one tap and one deformable group. It multiplies the output
// gradient by the weights, kColumns channels at a time; each tile of column gradients then passes
// through shared memory to threads that own pixels and 16 bytes of channels. They sum
// D_ab = column gradient * x[corner ab] in registers over all channels of the deformable group, so
// the offset and mask gradients need no atomics, and add to grad_x with one vector per corner. In
// deterministic mode the column gradients are stored instead, for scatter.cuh to gather.
#pragma once

#include "pipeline.cuh"
#include "sampler.cuh"

namespace dcn {
namespace cuda {

template <typename T, typename Index>
struct DataArguments {
  Geometry<Index> geometry;
  Inputs<T> inputs;
  const T* grad_out;  // packed: [pixels][groups][group_outputs], rounded operands
  const T* weight;    // packed: [groups][taps][group_channels][group_outputs], likewise
  Sum<T>* grad_x;     // packed, zero at first; or null
  void* grad_offset;  // of the type of offset; or null
  void* grad_mask;    // likewise
  Sum<T>* columns;    // [taps][end_pixel - first_pixel][channels]; null where not deterministic
  Index first_pixel, end_pixel;
  Index groups, group_outputs;  // packed
};

// Per pixel of the tile, what its samples need.
template <typename T, typename Index>
struct TilePixel {
  Index first;
  unsigned inside;
  Sum<T> ly, lx, mask;
};

template <typename T, typename Product>
struct DataTile {
  static constexpr int kStage = (Product::kRows + Product::kColumns) * Slice<T>::kContiguousStride;
  static constexpr int kSumStride = Product::kColumns + 16 / sizeof(Sum<T>);
  template <typename Index>
  static constexpr size_t shared_bytes() {
    constexpr size_t kStaged = kStages * kStage * sizeof(T);
    constexpr size_t kSums = Product::kRows * kSumStride * sizeof(Sum<T>);
    return (kStaged > kSums ? kStaged : kSums) + Product::kRows * sizeof(TilePixel<T, Index>);
  }
};

template <typename T, typename Index, typename Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kMinBlocks)
    backward_data_kernel(const DataArguments<T, Index> a) {
  using Tile = DataTile<T, Product>;
  constexpr int kVector = Vector<T>::kSize, kVectors = Slice<T>::kVectors;
  constexpr int kStride = Slice<T>::kContiguousStride;
  constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  constexpr int kThreads = Product::kThreads;
  constexpr int kLanes = kColumns / kVector;          // threads that share a pixel
  constexpr int kPixels = kRows * kLanes / kThreads;  // pixels per thread
  constexpr int kSumVector = Vector<Sum<T>>::kSize;
  static_assert(kLanes <= 32 && 32 % kLanes == 0, "a pixel's threads are in one warp");
  static_assert(kPixels * kThreads == kRows * kLanes, "every thread owns equally many pixels");

  const Geometry<Index>& g = a.geometry;
  const int thread = static_cast<int>(threadIdx.x);
  Index tile = blockIdx.x;
  const Index tap = tile % g.taps;
  tile /= g.taps;
  const Index deformable_group = tile % g.deformable_groups;
  const Index first_pixel = a.first_pixel + tile / g.deformable_groups * kRows;

  TilePixel<T, Index>* const pixels = reinterpret_cast<TilePixel<T, Index>*>(shared_memory());
  T* const stages = reinterpret_cast<T*>(pixels + kRows);
  Sum<T>* const sums = reinterpret_cast<Sum<T>*>(stages);

  for (int row = thread; row < kRows; row += kThreads) {
    TilePixel<T, Index> p = {0, 0, 0, 0, 0};
    if (first_pixel + row < a.end_pixel) {
      const Pixel<Index> pixel(g, first_pixel + row);
      const Tap<T, Index> t(g, a.inputs, pixel, tap, deformable_group);
      const Sample<Sum<T>> sample = t.sample(g, a.inputs, pixel, tap);
      const Corners<Index> corners(g, pixel.image, sample);
      p = {corners.first, corners.inside, sample.ly, sample.lx, t.mask(a.inputs)};
    }
    pixels[row] = p;
  }

  const bool want_sums = a.grad_offset || a.grad_mask;
  Sum<T> d[kPixels][4] = {};
  const Index end = (deformable_group + 1) * g.deformable_channels;
  const int slices =
      static_cast<int>((a.group_outputs + kVectors * kVector - 1) / (kVectors * kVector));
  Product product;
  for (Index first = deformable_group * g.deformable_channels, next; first < end; first = next) {
    // A tile of channels ends with its group.
    const Index group = first / g.group_channels;
    const Index group_end = (group + 1) * g.group_channels;
    next = first + kColumns < end ? first + kColumns : end;
    next = next < group_end ? next : group_end;

    const auto stage_operands = [&](int slice) {
      if (slice < slices) {
        T* const target = stages + slice % kStages * Tile::kStage;
        const Index m = static_cast<Index>(slice) * (kVectors * kVector);
        stage<kThreads, kRows, kVectors>(target, kStride, [&](int row, int vector) {
          const Index pixel = first_pixel + row, output = m + vector * kVector;
          return pixel < a.end_pixel && output < a.group_outputs
                     ? a.grad_out + (pixel * a.groups + group) * a.group_outputs + output
                     : static_cast<const T*>(nullptr);
        });
        const T* const weight =
            a.weight + (group * g.taps + tap) * g.group_channels * a.group_outputs;
        stage<kThreads, kColumns, kVectors>(
            target + kRows * kStride, kStride, [&](int column, int vector) {
              const Index channel = first + column, output = m + vector * kVector;
              return channel < next && output < a.group_outputs
                         ? weight + (channel - group * g.group_channels) * a.group_outputs + output
                         : static_cast<const T*>(nullptr);
            });
      }
      commit_copies();
    };
    product.clear();
    do {
      stage_operands(0);
      stage_operands(1);
      for (int slice = 0; slice < slices; ++slice) {
        wait_copies<1>();
        __syncthreads();
        stage_operands(slice + 2);
        const T* const staged = stages + slice % kStages * Tile::kStage;
        product.add_contiguous(staged, staged + kRows * kStride);
      }
    } while (product.repeat());
    __syncthreads();
    product.for_each(
        [&](int row, int column, Sum<T> sum) { sums[row * Tile::kSumStride + column] = sum; });
    __syncthreads();

#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int row = thread / kLanes + i * (kThreads / kLanes), lane = thread % kLanes;
      const TilePixel<T, Index> p = pixels[row];
      const Corners<Index> corners(p.first, p.inside);
      const Sum<T>* const column_gradient = sums + row * Tile::kSumStride;
      const Index channel = first + lane * kVector;
      if (want_sums && channel < next) {
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          if (!(p.inside >> corner & 1)) continue;
          const Vector<T> x =
              vector_of<T>(load_vector(a.inputs.x + corners.offset(g, corner) + channel));
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            d[i][corner] += column_gradient[lane * kVector + e] * Element<T>::load(x.lane[e]);
          }
        }
      }
      if (!p.inside || (!a.grad_x && !a.columns)) continue;
      const CornerWeights<Sum<T>> weights = corner_weights(p.ly, p.lx);
#pragma unroll
      for (int part = lane; part < kColumns / kSumVector; part += kLanes) {
        const Index c = first + part * kSumVector;
        if (c >= next) continue;
        Sum<T> scaled[kSumVector];
#pragma unroll
        for (int e = 0; e < kSumVector; ++e) {
          scaled[e] = p.mask * column_gradient[part * kSumVector + e];
        }
        if (a.columns) {
          const Index entry =
              tap * (a.end_pixel - a.first_pixel) + (first_pixel + row - a.first_pixel);
#pragma unroll
          for (int e = 0; e < kSumVector; ++e) a.columns[entry * g.channels + c + e] = scaled[e];
          continue;
        }
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          if (!(p.inside >> corner & 1)) continue;
          Sum<T> part_sum[kSumVector];
#pragma unroll
          for (int e = 0; e < kSumVector; ++e) {
            part_sum[e] = corner_weight(weights, corner) * scaled[e];
          }
          atomic_add_vector(a.grad_x + corners.offset(g, corner) + c, part_sum);
        }
      }
    }
    __syncthreads();
  }

  if (!want_sums) return;
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
      for (int mask = kLanes / 2; mask > 0; mask /= 2) {
        d[i][corner] += __shfl_xor_sync(0xffffffffu, d[i][corner], mask);
      }
    }
    const int row = thread / kLanes + i * (kThreads / kLanes);
    if (thread % kLanes != 0 || first_pixel + row >= a.end_pixel) continue;
    const TilePixel<T, Index> p = pixels[row];
    const Pixel<Index> pixel(g, first_pixel + row);
    const Index plane = (pixel.image * g.deformable_groups + deformable_group) * g.taps + tap;
    const Index at = pixel.row * g.out_width + pixel.column;
    const auto write = [&](void* to, Index index, Sum<T> value) {
      if (a.inputs.offset_is_float) {
        static_cast<float*>(to)[index] = static_cast<float>(value);
      } else {
        static_cast<T*>(to)[index] = Element<T>::store(value);
      }
    };
    Sum<T> by_y = 0, by_x = 0, by_mask = 0;  // a sample outside the image has no gradients
    if (p.inside) {
      const CornerWeights<Sum<T>> w = corner_weights(p.ly, p.lx);
      by_y = p.mask * y_gradient(p.lx, d[i][0], d[i][1], d[i][2], d[i][3]);
      by_x = p.mask * x_gradient(p.ly, d[i][0], d[i][1], d[i][2], d[i][3]);
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        by_mask += corner_weight(w, corner) * d[i][corner];
      }
    }
    if (a.grad_offset) {
      write(a.grad_offset, 2 * plane * g.out_pixels + at, by_y);
      write(a.grad_offset, (2 * plane + 1) * g.out_pixels + at, by_x);
    }
    if (a.grad_mask) write(a.grad_mask, plane * g.out_pixels + at, by_mask);
  }
}

}  // namespace cuda
}  // namespace dcn

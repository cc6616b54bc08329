// The gradients of x, offset and mask.
//
// A block's items are kRows output pixels, one tap and a "unit" of channels: several deformable
// groups of one group, or up to unit_channels of one deformable group. It multiplies the output
// gradient by the weights, kColumns channels at a time; each tile of column gradients then passes
// through shared memory to threads that own pixels and 16 bytes of channels. They sum
//   D_ab = column gradient * x[corner ab]
// over the channels they own; the sums of a pixel's threads make its offset and mask gradients.
// Where a deformable group has several units, each unit's share is stored as it is and
// sum_units_kernel adds them up in their order. To grad_x they add one vector per corner, or, for
// gather.cuh, they store the column gradients times the mask, rounded to the storage type. Operands
// are staged over the ends of tiles and items, so that loads are under way all the time.
#pragma once

#include "coordinate_gradients.cuh"
#include "pipeline.cuh"
#include "sampler.cuh"

namespace dcn {
namespace cuda {

// A range of images and channels: whole deformable groups, or a part of one.
template <typename Index>
struct Chunk {
  Index first_image, images;
  Index first_group, groups;      // deformable groups
  Index first_channel, channels;  // packed; `channels` of each deformable group

  // Rows of `channels` column gradients: [image][deformable group][tap][output pixel].
  DCN_DEVICE Index row(const Geometry<Index>& g, Index image, Index deformable_group, Index tap,
                       Index pixel) const {
    const Index plane = (image - first_image) * groups + (deformable_group - first_group);
    return (plane * g.taps + tap) * g.out_pixels + pixel;
  }
};

template <typename T, typename Index>
struct DataArguments {
  Geometry<Index> geometry;
  Chunk<Index> chunk;
  Inputs<T> inputs;
  const T* grad_out;  // packed: [pixels][groups][group_outputs], rounded operands
  const T* weight;    // packed: [groups][taps][group_channels][group_outputs], likewise
  Sum<T>* grad_x;     // packed, zero at first; or null
  T* columns;         // the chunk's column gradients; or null
  void* grad_offset;  // of the type of offset; or null
  void* grad_mask;    // likewise
  Sum<T>* shares;     // [units of a chunk][3][as grad_mask, of the chunk's images]; or null
  Index groups, group_outputs;  // packed
  Index items, units, unit_channels, unit_groups;
  Index group_units;  // of a deformable group; 1 where a unit has several
  bool accumulate;    // onto the shares of an earlier chunk of the same deformable group
};

// Per pixel and deformable group of the tile, what its samples need.
template <typename T, typename Index>
struct TilePixel {
  Index first;   // of Corners
  Index column;  // element offset of its row of column gradients
  unsigned inside;
  Sum<T> ly, lx, mask;
};

template <typename T, typename Product>
struct DataTile {
  static constexpr int kStage = (Product::kRows + Product::kColumns) * Slice<T>::kContiguousStride;
  static constexpr int kSumStride = Product::kColumns + 16 / sizeof(Sum<T>);
  static constexpr int kLanes = Product::kColumns / Vector<T>::kSize;  // threads per pixel
  static constexpr int kShareStride = 4 * (kLanes + 1);
  template <typename Index>
  static size_t shared_bytes(int64_t unit_groups) {
    constexpr int kStride = kSumStride > kShareStride ? kSumStride : kShareStride;
    return kStages * kStage * sizeof(T) + Product::kRows * kStride * sizeof(Sum<T>) +
           static_cast<size_t>(unit_groups) * Product::kRows * sizeof(TilePixel<T, Index>);
  }
};

// What a block works on at a time: pixels, a tap and a unit's channels, and of these a tile.
template <typename Index>
struct DataItem {
  Index number;
  Index first_pixel, tap;
  Index first_group, groups;  // deformable groups
  Index share;                // the unit's number in its deformable group
  Index begin, end;           // channels
  Index group, first, next;   // the tile's group and channels

  // At the unit's first tile, or at the one from channel `from` on.
  template <int kRows, int kColumns, typename Arguments>
  DCN_DEVICE void start(const Arguments& a, Index item, Index from = -1) {
    const Geometry<Index>& g = a.geometry;
    const Chunk<Index>& chunk = a.chunk;
    number = item;
    tap = item % g.taps;
    item /= g.taps;
    const Index unit = item % a.units;
    first_pixel = chunk.first_image * g.out_pixels + item / a.units * kRows;
    share = unit % a.group_units;
    first_group = chunk.first_group + unit / a.group_units * a.unit_groups;
    const Index left = chunk.first_group + chunk.groups - first_group;
    groups = a.unit_groups < left ? a.unit_groups : left;
    begin = first_group * g.deformable_channels + chunk.first_channel + share * a.unit_channels;
    const Index rest = groups * chunk.channels - share * a.unit_channels;
    const Index most = a.unit_groups * a.unit_channels;
    end = begin + (most < rest ? most : rest);
    next = from < 0 ? begin : from;
    advance<kColumns>(g);
  }
  // To the next tile, which ends with its group.
  template <int kColumns>
  DCN_DEVICE void advance(const Geometry<Index>& g) {
    first = next;
    group = first / g.group_channels;
    const Index group_end = (group + 1) * g.group_channels;
    next = first + kColumns < end ? first + kColumns : end;
    next = next < group_end ? next : group_end;
  }
};

template <typename T, typename Index, typename Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kMinBlocks)
    backward_data_kernel(const DataArguments<T, Index> a) {
  await_earlier_kernels();
  using Tile = DataTile<T, Product>;
  constexpr int kVector = Vector<T>::kSize, kVectors = Slice<T>::kVectors;
  constexpr int kDepth = Slice<T>::kDepth, kStride = Slice<T>::kContiguousStride;
  constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  constexpr int kThreads = Product::kThreads, kLanes = Tile::kLanes;
  constexpr int kPixels = kRows * kLanes / kThreads;  // pixels per thread
  constexpr int kSumVector = Vector<Sum<T>>::kSize, kParts = kVector / kSumVector;
  constexpr int kRowStep = kThreads / kVectors;  // rows staged at a time
  constexpr int kRowCopies = kRows / kRowStep, kColumnCopies = (kColumns - 1) / kRowStep + 1;
  static_assert(kPixels * kThreads == kRows * kLanes, "every thread owns equally many pixels");
  static_assert(kRowCopies * kRowStep == kRows, "every thread stages equally many rows");

  const Geometry<Index>& g = a.geometry;
  const Chunk<Index>& chunk = a.chunk;
  const int thread = static_cast<int>(threadIdx.x);
  const Index end_pixel = (chunk.first_image + chunk.images) * g.out_pixels;
  const Index last = static_cast<Index>(int64_t{a.items} * (blockIdx.x + 1) / gridDim.x);
  const int slices = static_cast<int>((a.group_outputs + kDepth - 1) / kDepth);

  Sum<T>* const sums = reinterpret_cast<Sum<T>*>(shared_memory());
  constexpr int kSums =
      kRows * (Tile::kSumStride > Tile::kShareStride ? Tile::kSumStride : Tile::kShareStride);
  T* const stages = reinterpret_cast<T*>(sums + kSums);
  TilePixel<T, Index>* const pixels =
      reinterpret_cast<TilePixel<T, Index>*>(stages + kStages * Tile::kStage);

  DataItem<Index> item;
  item.template start<kRows, kColumns>(
      a, static_cast<Index>(int64_t{a.items} * blockIdx.x / gridDim.x));

  // Slices are staged two ahead of the product, over the ends of tiles and items.
  Index ahead, ahead_next;                          // that item, and its next tile or -1
  int ahead_slice = 0, staged = 0, multiplied = 0;  // `staged` and `multiplied` modulo kStages
  const int stage_row = thread / kVectors, stage_vector = thread % kVectors * kVector;
  const T *row_sources[kRowCopies], *column_sources[kColumnCopies];
  unsigned valid = 0;  // a bit for each of the sources
  const auto aim = [&](Index number, Index from) {
    ahead = number;
    ahead_slice = 0;
    if (ahead >= last) return;
    DataItem<Index> to;
    to.template start<kRows, kColumns>(a, number, from);
    ahead_next = to.next < to.end ? to.next : -1;
    valid = 0;
#pragma unroll
    for (int i = 0; i < kRowCopies; ++i) {
      const Index pixel = to.first_pixel + stage_row + i * kRowStep;
      row_sources[i] = a.grad_out + stage_vector;
      if (pixel >= end_pixel) continue;
      row_sources[i] += (pixel * a.groups + to.group) * a.group_outputs;
      valid |= 1u << i;
    }
    const Index first_row = (to.group * g.taps + to.tap) * g.group_channels;  // of the weight
#pragma unroll
    for (int i = 0; i < kColumnCopies; ++i) {
      const Index channel = to.first + stage_row + i * kRowStep;
      column_sources[i] = a.weight + stage_vector;
      if (channel >= to.next) continue;
      column_sources[i] += (first_row + channel - to.group * g.group_channels) * a.group_outputs;
      valid |= 1u << (kRowCopies + i);
    }
  };
  const auto stage_slice = [&] {
    if (ahead < last) {
      T* const target = stages + staged * Tile::kStage + stage_row * kStride + stage_vector;
      const Index m = static_cast<Index>(ahead_slice) * kDepth;
      const bool inside = m + stage_vector < a.group_outputs;
#pragma unroll
      for (int i = 0; i < kRowCopies; ++i) {
        copy_async(target + i * kRowStep * kStride, row_sources[i] + m, inside && valid >> i & 1);
      }
#pragma unroll
      for (int i = 0; i < kColumnCopies; ++i) {
        if (kColumns % kRowStep == 0 || stage_row + i * kRowStep < kColumns) {
          copy_async(target + (kRows + i * kRowStep) * kStride, column_sources[i] + m,
                     inside && valid >> (kRowCopies + i) & 1);
        }
      }
      if (++ahead_slice == slices) aim(ahead_next < 0 ? ahead + 1 : ahead, ahead_next);
    }
    staged = staged + 1 == kStages ? 0 : staged + 1;
    commit_copies();
  };
  aim(item.number, item.first);
  stage_slice();
  stage_slice();

  const bool want_sums = a.grad_offset || a.grad_mask;
  Product product;
  while (item.number < last) {
    // The samples' coordinates are read now and needed after the product.
    Tap<T, Index> first_tap;
    const auto read_tap = [&](int i) {
      const Pixel<Index> pixel(g, item.first_pixel + i % kRows);
      return Tap<T, Index>(g, a.inputs, pixel, item.tap, item.first_group + i / kRows);
    };
    if (thread < item.groups * kRows && item.first_pixel + thread % kRows < end_pixel) {
      first_tap = read_tap(thread);
    }

    Sum<T> d[kPixels][4] = {};
    for (;;) {
      product.clear();
      for (;;) {
        for (int slice = 0; slice < slices; ++slice) {
          wait_copies<1>();
          __syncthreads();
          stage_slice();
          const T* const stage = stages + multiplied * Tile::kStage;
          product.add_contiguous(stage, stage + kRows * kStride);
          multiplied = multiplied + 1 == kStages ? 0 : multiplied + 1;
        }
        if (!product.repeat()) break;
        // What was staged ahead is staged again later.
        wait_copies<0>();
        __syncthreads();
        staged = multiplied;
        aim(item.number, item.first);
        stage_slice();
        stage_slice();
      }
      product.for_each(
          [&](int row, int column, Sum<T> sum) { sums[row * Tile::kSumStride + column] = sum; });
      for (int i = thread; item.first == item.begin && i < item.groups * kRows; i += kThreads) {
        TilePixel<T, Index> p = {0, 0, 0, 0, 0, 0};
        if (item.first_pixel + i % kRows < end_pixel) {
          const Pixel<Index> pixel(g, item.first_pixel + i % kRows);
          const Tap<T, Index> t = i < kThreads ? first_tap : read_tap(i);
          const Sample<Sum<T>> sample = t.sample(g, a.inputs, pixel, item.tap);
          const Corners<Index> corners(g, pixel.image, sample);
          const Index row = a.columns ? chunk.row(g, pixel.image, item.first_group + i / kRows,
                                                  item.tap, pixel.row * g.out_width + pixel.column)
                                      : 0;
          p = {corners.first, row * chunk.channels, corners.inside, sample.ly,
               sample.lx,     t.mask(a.inputs)};
        }
        pixels[i] = p;
      }
      __syncthreads();

      const Index channel = item.first + thread % kLanes * kVector;
      if (channel < item.next) {
        const Index within = channel - item.begin;
        const Index local = a.unit_groups > 1 ? within / g.deformable_channels : 0;
        const Index column = a.unit_groups > 1 ? within - local * g.deformable_channels
                                               : within + item.share * a.unit_channels;
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          const int row = thread / kLanes + i * (kThreads / kLanes);
          const TilePixel<T, Index> p = pixels[local * kRows + row];
          const Corners<Index> corners(p.first, p.inside);
          Sum<T> gradient[kVector];
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            gradient[e] = sums[row * Tile::kSumStride + thread % kLanes * kVector + e];
          }
          if (want_sums) {
            uint4 x[4];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              x[corner] = p.inside >> corner & 1
                              ? load_vector(a.inputs.x + corners.offset(g, corner) + channel)
                              : uint4{0, 0, 0, 0};
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              if (!(p.inside >> corner & 1)) continue;
              const Vector<T> v = vector_of<T>(x[corner]);
#pragma unroll
              for (int e = 0; e < kVector; ++e) {
                d[i][corner] += gradient[e] * Element<T>::load(v.lane[e]);
              }
            }
          }
          if (a.columns && p.inside) {
            Vector<T> scaled;
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
              scaled.lane[e] = Element<T>::store(p.mask * gradient[e]);
            }
            store_vector(a.columns + p.column + column, scaled);
          }
        }
      }
      if (a.grad_x) {
        // Neighbouring threads add neighbouring vectors of sums.
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const int within = (part * kLanes + thread % kLanes) * kSumVector;
          const Index to = item.first + within;
          if (to >= item.next) continue;
          const Index local = a.unit_groups > 1 ? (to - item.begin) / g.deformable_channels : 0;
#pragma unroll
          for (int i = 0; i < kPixels; ++i) {
            const int row = thread / kLanes + i * (kThreads / kLanes);
            const TilePixel<T, Index> p = pixels[local * kRows + row];
            const Corners<Index> corners(p.first, p.inside);
            const CornerWeights<Sum<T>> weights = corner_weights(p.ly, p.lx);
            Sum<T> scaled[kSumVector];
#pragma unroll
            for (int e = 0; e < kSumVector; ++e) {
              scaled[e] = p.mask * sums[row * Tile::kSumStride + within + e];
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              if (!(p.inside >> corner & 1)) continue;
              Sum<T> share[kSumVector];
#pragma unroll
              for (int e = 0; e < kSumVector; ++e) {
                share[e] = corner_weight(weights, corner) * scaled[e];
              }
              atomic_add_vector(a.grad_x + corners.offset(g, corner) + to, share);
            }
          }
        }
      }
      if (item.next == item.end) break;
      item.template advance<kColumns>(g);
    }

    if (want_sums) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const int row = thread / kLanes + i * (kThreads / kLanes);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          sums[row * Tile::kShareStride + thread % kLanes * 4 + corner] = d[i][corner];
        }
      }
      __syncthreads();
      for (int i = thread; i < item.groups * kRows; i += kThreads) {
        if (item.first_pixel + i % kRows >= end_pixel) continue;
        const Index lanes = a.unit_groups > 1 ? g.deformable_channels / kVector : kLanes;
        const Index first_lane = i / kRows * lanes;
        Sum<T> by_corner[4] = {};
        for (Index lane = first_lane; lane < first_lane + lanes; ++lane) {
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            by_corner[corner] += sums[i % kRows * Tile::kShareStride + lane * 4 + corner];
          }
        }
        const TilePixel<T, Index> p = pixels[i];
        CoordinateGradients<Sum<T>> gradients(p.inside != 0, p.ly, p.lx, p.mask, by_corner);
        const Index pixel = item.first_pixel + i % kRows, image = pixel / g.out_pixels;
        const Index group = item.first_group + i / kRows;
        const auto plane = [&](Index of) {
          return (of * g.deformable_groups + group) * g.taps + item.tap;
        };
        if (!a.shares) {
          gradients.template write<T>(a.inputs.offset_is_float, plane(image), g.out_pixels,
                                      pixel - image * g.out_pixels, a.grad_offset, a.grad_mask);
          continue;
        }
        const Index size = chunk.images * g.deformable_groups * g.taps * g.out_pixels;
        Sum<T>* const target = a.shares + 3 * item.share * size +
                               plane(image - chunk.first_image) * g.out_pixels + pixel -
                               image * g.out_pixels;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          target[k * size] = gradients.by[k] + (a.accumulate ? target[k * size] : 0);
        }
      }
    }
    item.template start<kRows, kColumns>(a, item.number + 1);
  }
}

// `count` shares of each of `size` = planes * pixels gradients.
template <typename T>
__global__ void __launch_bounds__(256)
    sum_units_kernel(const Sum<T>* shares, int64_t count, int64_t size, int64_t pixels,
                     bool as_float, void* grad_offset, void* grad_mask) {
  await_earlier_kernels();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    CoordinateGradients<Sum<T>> gradients;
    for (int64_t share = 0; share < count; ++share) {
#pragma unroll
      for (int k = 0; k < 3; ++k) gradients.by[k] += shares[(3 * share + k) * size + i];
    }
    const int64_t plane = i / pixels;
    gradients.template write<T>(as_float, plane, pixels, i - plane * pixels, grad_offset,
                                grad_mask);
  }
}

}  // namespace cuda
}  // namespace dcn

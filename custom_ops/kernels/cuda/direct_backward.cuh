// Layers with few channels per group, see direct.cuh: the gradients of offset, mask and weight, in
// one pass over the samples.
//
// A block goes through some tiles of output pixels, for all channels of its deformable groups. The
// gradient of a sample needs no product of matrices: it is made of a few weights and output
// gradients in registers. Sums over channels are made by shuffles and in shared memory, sums over
// pixels by shuffles and in a partial weight gradient that the block owns, all in a fixed order.
#pragma once

#include "coordinate_gradients.cuh"
#include "direct.cuh"

namespace dcn {
namespace cuda {

template <typename T>
struct DirectBackwardArguments {
  Geometry<int> geometry;
  Inputs<T> inputs;
  const T* grad_out;  // packed: [pixels][packed channels times multiple]
  const T* weight;    // packed
  Sum<T>* partial;    // [splits], each like the packed weight; or null
  void* grad_offset;  // of the type of offset; or null
  void* grad_mask;    // likewise
  DirectTiling tiling;
  int multiple, tiles, split_tiles;
  bool accumulate;  // onto the partial sums of earlier images
};

// Shared memory beside the plans.
template <typename T, int kGroup>
struct DirectSums {
  static constexpr int kValues = Vector<T>::kSize * kGroup;  // weight gradients of a thread and tap

  Sum<T>* corners;  // [plans][4]: D_ab of the header of sampling.h
  Sum<T>* weights;  // [warps][taps][parts][kValues][lanes]

  DCN_DEVICE DirectSums(const DirectTiling& t, unsigned char* shared)
      : corners(reinterpret_cast<Sum<T>*>(shared)), weights(corners + 4 * t.plans()) {}
  static size_t bytes(const DirectTiling& t, int multiple) {
    const int64_t values = int64_t{DirectTiling::kWarps} * t.tap_step * multiple * kValues;
    return (4 * t.plans() + (values << t.lane_bits)) * sizeof(Sum<T>);
  }
};

// Sums v[0..kCount) over the lanes whose numbers differ in the bits kMask, 2 * kMask, ... below
// kEnd, each step leaving half of the values, while there are several, to either side. Returns the
// first index of those that this lane is left with, which are then v[0], v[1], ...
template <int kCount, int kMask, int kEnd, typename S>
DCN_DEVICE int reduce_lanes(S* v) {
  if constexpr (kMask >= kEnd) {
    constexpr bool kSplit = kCount > 1;
    constexpr int kLeft = kSplit ? kCount / 2 : 1;
    const bool upper = threadIdx.x & kMask;
#pragma unroll
    for (int i = 0; i < kLeft; ++i) {
      const S sent = kSplit && !upper ? v[i + kCount - kLeft] : v[i];
      const S kept = kSplit && upper ? v[i + kCount - kLeft] : v[i];
      v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, kMask);
    }
    return (kSplit && upper ? kLeft : 0) + reduce_lanes<kLeft, kMask / 2, kEnd>(v);
  } else {
    return 0;
  }
}

// kSingle: as many outputs as channels.
template <typename T, int kGroup, bool kSingle>
__global__ void __launch_bounds__(DirectTiling::kThreads, 2)
    direct_backward_kernel(const DirectBackwardArguments<T> a) {
  await_earlier_kernels();
  using S = Sum<T>;
  constexpr int kVector = Vector<T>::kSize, kSteps = DirectTiling::kSteps;
  constexpr int kValues = DirectSums<T, kGroup>::kValues;
  static_assert(kSingle || kGroup == 1, "several outputs per channel only with groups of one");
  const Geometry<int>& g = a.geometry;
  const DirectTiling& t = a.tiling;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int lanes = 1 << t.lane_bits, lane = thread & (lanes - 1);
  const int multiple = kSingle ? 1 : a.multiple;
  const int group_block = static_cast<int>(blockIdx.x) % t.group_blocks();
  const int split = static_cast<int>(blockIdx.x) / t.group_blocks();
  const int rows = multiple * kGroup;  // of the weight
  S* const partial = a.partial ? a.partial + int64_t{split} * rows * g.taps * g.channels : nullptr;
  const bool want_corners = a.grad_offset || a.grad_mask;

  const DirectPlans<T> plans(t, shared_memory());
  const DirectSums<T, kGroup> sums(t, shared_memory() + t.plans() * DirectPlans<T>::kBytes);
  const int end = (split + 1) * a.split_tiles < a.tiles ? (split + 1) * a.split_tiles : a.tiles;

  for (int number = split * a.split_tiles; number < end; ++number) {
    const DirectTile tile(t, number);
    const bool accumulate = a.accumulate || number > split * a.split_tiles;
    for (int first_tap = 0; first_tap < g.taps; first_tap += t.tap_step) {
      const int taps = g.taps - first_tap < t.tap_step ? g.taps - first_tap : t.tap_step;
      __syncthreads();
      plans.make(g, a.inputs, t, tile, group_block, first_tap, taps);
      __syncthreads();
      for (int vector_block = 0; vector_block < t.vector_blocks(); ++vector_block) {
        const DirectThread me(t, group_block, vector_block);
        const int channel = me.active ? me.group * g.deformable_channels + me.vector * kVector : 0;
        const auto grad_out = [&](int step, int part) {
          Vector<T> v = {};
          const int slot = DirectThread::slot(t, step);
          if (!me.active || !tile.inside(t, slot)) return v;
          const Pixel<int> p = tile.pixel(t, slot);
          const T* const pixel =
              a.grad_out +
              (p.image * g.out_pixels + p.row * g.out_width + p.column) * g.channels * multiple;
          if constexpr (kSingle) {
            return vector_of<T>(load_vector(pixel + channel));
          } else {
#pragma unroll
            for (int e = 0; e < kVector; ++e) v.lane[e] = pixel[(channel + e) * multiple + part];
            return v;
          }
        };
        const auto weight = [&](int tap, int row) {
          return vector_of<T>(
              load_vector(a.weight + (row * g.taps + first_tap + tap) * g.channels + channel));
        };

        const auto add_products = [](const Vector<T>& above, const S(&samples)[kVector],
                                     S(&products)[kValues]) {
#pragma unroll
          for (int i = 0; i < kGroup; ++i) {
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
              products[i * kVector + e] +=
                  Element<T>::load(above.lane[e]) * samples[e / kGroup * kGroup + i];
            }
          }
        };
        // Sums them over the warp's pixels. Lanes that are left with the same sums agree on who
        // writes them.
        const auto store_products = [&](int tap, int part, S(&products)[kValues]) {
          constexpr int kLeft = kValues >= 4 ? kValues / 4 : 1;
          const int first = reduce_lanes<kValues, 16, 8>(products);
          for (int mask = 4; mask >= lanes; mask /= 2) {
#pragma unroll
            for (int i = 0; i < kLeft; ++i) {
              products[i] += __shfl_xor_sync(0xffffffffu, products[i], mask);
            }
          }
          S* const target =
              sums.weights +
              (((warp * t.tap_step + tap) * multiple + part) * kValues + first) * lanes + lane;
          if ((thread & 7 & ~(lanes - 1)) == 0 && (kValues >= 4 || (thread & 8) == 0)) {
#pragma unroll
            for (int i = 0; i < kLeft; ++i) target[i * lanes] = products[i];
          }
        };

        // Sums D_ab over the lanes of a deformable group, and adds them to those of other vectors.
        const auto store_corners = [&](const int (&at)[kSteps], S(&d)[4 * kSteps], bool add) {
          const auto store = [&](int step, int corner, S value) {
            S* const total = sums.corners + 4 * (step == 0 ? at[0] : at[1]) + corner;
            *total = add ? *total + value : value;
          };
          if (t.group_bits == 3) {
            const int first = reduce_lanes<4 * kSteps, 4, 1>(d);
            store(first / 4, first % 4, d[0]);
            return;
          }
          for (int mask = 1 << t.group_bits >> 1; mask > 0; mask /= 2) {
#pragma unroll
            for (int i = 0; i < 4 * kSteps; ++i) d[i] += __shfl_xor_sync(0xffffffffu, d[i], mask);
          }
          if (lane & ((1 << t.group_bits) - 1)) return;
#pragma unroll
          for (int i = 0; i < 4 * kSteps; ++i) {
            if (DirectThread::slot(t, i / 4) < DirectTiling::kPixels) store(i / 4, i % 4, d[i]);
          }
        };

        Vector<T> single[kSteps];
        if (kSingle) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) single[step] = grad_out(step, 0);
        }
        for (int tap = 0; tap < taps; ++tap) {
          S samples[kSingle ? 1 : kSteps][kVector], products[kValues] = {};
          Vector<T> weights[kGroup];
          if (kSingle) {
#pragma unroll
            for (int i = 0; i < kGroup; ++i) weights[i] = weight(tap, i);
          }
          int at[kSteps];
          S d[4 * kSteps];
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            const int slot = DirectThread::slot(t, step);
            at[step] =
                DirectPlans<T>::index(t, me.local_group, tap, slot & (DirectTiling::kPixels - 1));
            const bool used = me.active && slot < DirectTiling::kPixels;
            const unsigned inside = used ? plans.places[at[step]].inside : 0;
            Vector<T> corners[4];
            load_corners(g, a.inputs.x + channel, plans.places[at[step]].first, inside, corners);
            S gradients[kVector] = {};  // of mask * sample
            for (int part = 0; part < multiple; ++part) {
              const Vector<T> above = kSingle ? single[step] : grad_out(step, part);
              if (!kSingle) weights[0] = weight(tap, part);
#pragma unroll
              for (int e = 0; e < kVector; ++e) {
#pragma unroll
                for (int i = 0; i < kGroup; ++i) {
                  const int output = e / kGroup * kGroup + i;
                  gradients[e] += Element<T>::load(weights[e % kGroup].lane[output]) *
                                  Element<T>::load(above.lane[output]);
                }
              }
            }
            S(&sample)[kVector] = samples[kSingle ? 0 : step];
#pragma unroll
            for (int e = 0; e < kVector; ++e) sample[e] = 0;
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              const S share = inside ? plans.weights[at[step]].corner[corner] : S(0);
              S sum = 0;
#pragma unroll
              for (int e = 0; e < kVector; ++e) {
                const S x = Element<T>::load(corners[corner].lane[e]);
                sample[e] += share * x;
                sum += gradients[e] * x;
              }
              d[4 * step + corner] = inside >> corner & 1 ? sum : S(0);
            }
            if constexpr (kSingle) add_products(single[step], sample, products);
          }
          if (want_corners) store_corners(at, d, vector_block > 0);
          if (!partial) continue;
          if constexpr (kSingle) {
            store_products(tap, 0, products);
          } else {
            for (int part = 0; part < multiple; ++part) {
              S parts[kValues] = {};
#pragma unroll
              for (int step = 0; step < kSteps; ++step) {
                add_products(grad_out(step, part), samples[step], parts);
              }
              store_products(tap, part, parts);
            }
          }
        }
        if (partial) {  // over warps
          __syncthreads();
          const int warp_size = t.tap_step * multiple * kValues * lanes;
          for (int i = thread; i < taps * multiple * kValues * lanes; i += DirectTiling::kThreads) {
            S sum = 0;
#pragma unroll
            for (int w = 0; w < DirectTiling::kWarps; ++w) sum += sums.weights[w * warp_size + i];
            const int at = i & (lanes - 1), value = (i >> t.lane_bits) % kValues;
            const int rest = (i >> t.lane_bits) / kValues, tap = rest / multiple;
            const int group = me.group - me.local_group + (at >> t.group_bits);
            const int vector = (vector_block << t.group_bits) + (at & ((1 << t.group_bits) - 1));
            if (group >= t.end_group || vector >= t.vectors) continue;
            const int row = rest - tap * multiple + value / kVector;
            S* const target = partial + (row * g.taps + first_tap + tap) * g.channels +
                              group * g.deformable_channels + vector * kVector + value % kVector;
            *target = accumulate ? *target + sum : sum;
          }
          __syncthreads();
        }
      }
      if (!want_corners) continue;
      __syncthreads();
      plans.for_each_tap(
          g, a.inputs, t, tile, group_block, first_tap, taps,
          [&](const Tap<T, int>& raw, int at, bool valid, const Pixel<int>& pixel, int group,
              int tap) {
            if (!valid) return;
            const Sample<S> sample = raw.sample(g, a.inputs, pixel, tap);
            const CoordinateGradients<S> gradients(sample.y0 >= -1, sample.ly, sample.lx,
                                                   raw.mask(a.inputs), sums.corners + 4 * at);
            gradients.template write<T>(a.inputs.offset_is_float,
                                        (pixel.image * g.deformable_groups + group) * g.taps + tap,
                                        g.out_pixels, pixel.row * g.out_width + pixel.column,
                                        a.grad_offset, a.grad_mask);
          });
    }
  }
}

// Adds the splits' partial weight gradients, each of `size` elements, up in the first one, in a
// fixed order: a block has 32 elements, and eight ranges of the splits for each.
template <typename S>
__global__ void __launch_bounds__(256)
    sum_direct_weight_kernel(int64_t size, int splits, S* partial) {
  await_earlier_kernels();
  S* const sums = reinterpret_cast<S*>(shared_memory());
  const int thread = static_cast<int>(threadIdx.x), range = thread / 32;
  const int64_t i = int64_t{blockIdx.x} * 32 + thread % 32;
  S sum = 0;
  if (i < size) {
#pragma unroll 4
    for (int s = splits * range / 8; s < splits * (range + 1) / 8; ++s)
      sum += partial[s * size + i];
  }
  sums[thread] = sum;
  __syncthreads();
  if (range > 0 || i >= size) return;
  for (int r = 1; r < 8; ++r) sum += sums[r * 32 + thread];
  partial[i] = sum;
}

}  // namespace cuda
}  // namespace dcn

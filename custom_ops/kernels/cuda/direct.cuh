// Layers with few channels per group, without a matrix product: what their kernels share, and
// forward.
//
// A thread owns 16 bytes of neighbouring channels of two pixels, and whole groups of them: it
// samples a tap, multiplies by the weights and adds, all in registers. A block owns a tile of 64
// pixels by up to 128 bytes of channels, so that the L1 cache keeps the tile's surroundings from
// tap to tap. Where and with what weights to sample is computed once per pixel, tap and deformable
// group, and lies in shared memory.
//
// Packed channels are padded per deformable group here, not per group. A layer has `multiple` times
// as many outputs as channels: one, or several where a group is a single channel. Weights are
// packed as [rows][taps][packed channels], row i of a group's outputs being those by its i-th
// channel, or the i-th outputs of every channel.
#pragma once

#include "relayout.cuh"
#include "sampler.cuh"

namespace dcn {
namespace cuda {

// How an image, the output or, for its gradient, x, is cut into tiles, and who does what in a tile.
struct DirectTiling {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kPixels = 64;                                // of a tile
  static constexpr int kLaneBits = 3;                               // at most
  static constexpr int kSteps = (kPixels << kLaneBits) / kThreads;  // pixels of a thread
  static constexpr int kPlans = 9 * kPixels;                        // per block, about

  int height, width;
  int column_bits;             // a tile is 2^column_bits wide
  int across, image_tiles;     // tiles in a row, in an image
  int lane_bits;               // threads that share a pixel
  int group_bits;              // those of them that share a deformable group
  int first_group, end_group;  // deformable groups at hand
  int vectors;                 // of a deformable group
  int tap_step;                // taps whose plans are in shared memory together

  __host__ __device__ int local_groups() const { return 1 << (lane_bits - group_bits); }
  __host__ __device__ int group_blocks() const {
    return (end_group - first_group + local_groups() - 1) / local_groups();
  }
  __host__ __device__ int vector_blocks() const {
    return (vectors + (1 << group_bits) - 1) >> group_bits;
  }
  __host__ __device__ int plans() const { return local_groups() * tap_step * kPixels; }
};

// A tile, its pixels numbered row by row.
struct DirectTile {
  int image, first_row, first_column;

  DCN_DEVICE DirectTile(const DirectTiling& t, int tile) {
    image = tile / t.image_tiles;
    const int rest = tile - image * t.image_tiles, row = rest / t.across;
    first_row = row * (DirectTiling::kPixels >> t.column_bits);
    first_column = (rest - row * t.across) << t.column_bits;
  }
  DCN_DEVICE Pixel<int> pixel(const DirectTiling& t, int slot) const {
    Pixel<int> p;
    p.image = image;
    p.row = first_row + (slot >> t.column_bits);
    p.column = first_column + (slot & ((1 << t.column_bits) - 1));
    return p;
  }
  DCN_DEVICE bool inside(const DirectTiling& t, int slot) const {
    const Pixel<int> p = pixel(t, slot);
    return slot < DirectTiling::kPixels && p.row < t.height && p.column < t.width;
  }
};

// This thread's part of a tile: pixel slot(0), slot(1), ..., and a vector of packed channels.
struct DirectThread {
  int local_group;  // deformable group, among those of the block
  int group;        // deformable group
  int vector;       // of the deformable group
  bool active;

  DCN_DEVICE DirectThread(const DirectTiling& t, int group_block, int vector_block) {
    const int lane = static_cast<int>(threadIdx.x) & ((1 << t.lane_bits) - 1);
    local_group = lane >> t.group_bits;
    group = t.first_group + group_block * t.local_groups() + local_group;
    vector = (vector_block << t.group_bits) + (lane & ((1 << t.group_bits) - 1));
    active = group < t.end_group && vector < t.vectors;
  }
  static DCN_DEVICE int slot(const DirectTiling& t, int step) {
    return (static_cast<int>(threadIdx.x) >> t.lane_bits) +
           step * (DirectTiling::kThreads >> t.lane_bits);
  }
};

// Sampling plans in shared memory: [deformable groups of the block][taps at a time][pixels].
template <typename T>
struct DirectPlans {
  struct alignas(16) Weights {
    Sum<T> corner[4];  // times the mask; 0 outside the image, also where the mask is NaN
  };
  struct Place {
    int first;  // see Corners
    unsigned inside;
  };
  static constexpr int kBytes = sizeof(Weights) + sizeof(Place);

  Weights* weights;
  Place* places;

  DCN_DEVICE DirectPlans(const DirectTiling& t, unsigned char* shared)
      : weights(reinterpret_cast<Weights*>(shared)),
        places(reinterpret_cast<Place*>(weights + t.plans())) {}

  static DCN_DEVICE int index(const DirectTiling& t, int local_group, int tap, int slot) {
    return (local_group * t.tap_step + tap) * DirectTiling::kPixels + slot;
  }

  // Calls visit(raw, index, valid, pixel, deformable group, tap) for this thread's share of the
  // plans. What is valid, not beyond the image or the deformable groups, has been read, several at
  // once.
  template <typename Visit>
  static DCN_DEVICE void for_each_tap(const Geometry<int>& g, const Inputs<T>& in,
                                      const DirectTiling& t, const DirectTile& tile,
                                      int group_block, int first_tap, int taps,
                                      const Visit& visit) {
    constexpr int kAtOnce = 3, kStep = DirectTiling::kThreads / DirectTiling::kPixels;
    const int slot = static_cast<int>(threadIdx.x) % DirectTiling::kPixels;
    const int size = t.local_groups() * taps;
    const bool inside = tile.inside(t, slot);
    const Pixel<int> pixel = tile.pixel(t, slot);
    for (int first = static_cast<int>(threadIdx.x) / DirectTiling::kPixels; first < size;
         first += kAtOnce * kStep) {
      Tap<T, int> raw[kAtOnce];
      const auto for_each = [&](const auto& run) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int at = first + i * kStep;
          if (at >= size) continue;
          const int local_group = t.local_groups() == 1 ? 0 : at / taps;
          const int tap = at - local_group * taps;
          const int group = t.first_group + group_block * t.local_groups() + local_group;
          run(raw[i], index(t, local_group, tap, slot), inside && group < t.end_group, group,
              first_tap + tap);
        }
      };
      for_each([&](Tap<T, int>& tap_raw, int, bool valid, int group, int tap) {
        if (valid) tap_raw = Tap<T, int>(g, in, pixel, tap, group);
      });
      for_each([&](const Tap<T, int>& tap_raw, int at, bool valid, int group, int tap) {
        visit(tap_raw, at, valid, pixel, group, tap);
      });
    }
  }

  DCN_DEVICE void make(const Geometry<int>& g, const Inputs<T>& in, const DirectTiling& t,
                       const DirectTile& tile, int group_block, int first_tap, int taps) const {
    for_each_tap(
        g, in, t, tile, group_block, first_tap, taps,
        [&](const Tap<T, int>& raw, int at, bool valid, const Pixel<int>& pixel, int, int tap) {
          Weights w = {};
          Place place = {0, 0};
          if (valid) {
            const Sample<Sum<T>> sample = raw.sample(g, in, pixel, tap);
            const Corners<int> corners(g, pixel.image, sample);
            const CornerWeights<Sum<T>> shares = corner_weights(sample.ly, sample.lx);
            place = {corners.first, corners.inside};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              w.corner[i] =
                  place.inside >> i & 1 ? raw.mask(in) * corner_weight(shares, i) : Sum<T>(0);
            }
          }
          weights[at] = w;
          places[at] = place;
        });
  }
};

template <typename T>
DCN_DEVICE void load_corners(const Geometry<int>& g, const T* x, int first, unsigned inside,
                             Vector<T> (&values)[4]) {
  const Corners<int> corners(first, inside);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[i] =
        vector_of<T>(inside >> i & 1 ? load_vector(x + corners.offset(g, i)) : uint4{0, 0, 0, 0});
  }
}

// A plain tensor to write tiles to.
template <typename T>
struct DirectTarget {
  T* data;
  bool channels_last, vectors;  // vectors: whole ones can be stored where they belong
  int channels, size;           // size: channels of a deformable group, without padding
};

// Writes a tile: value(step, e) of this thread's pixels and channels, to the channels that
// channel(packed channel without padding) says, by way of store_tile_bytes() of shared memory.
template <typename T, typename Value, typename Channel>
DCN_DEVICE void store_tile(const DirectTarget<T>& to, unsigned char* shared, const DirectTiling& t,
                           const DirectTile& tile, const DirectThread& me, const Value& value,
                           const Channel& channel) {
  constexpr int kVector = Vector<T>::kSize;
  const int64_t image_pixels = int64_t{t.height} * t.width;
  const int64_t image = tile.image * image_pixels * to.channels;
  if (to.channels_last) {
    if (!me.active) return;
#pragma unroll
    for (int step = 0; step < DirectTiling::kSteps; ++step) {
      const int slot = DirectThread::slot(t, step);
      if (!tile.inside(t, slot)) continue;
      const Pixel<int> p = tile.pixel(t, slot);
      T* const row = to.data + image + (int64_t{p.row} * t.width + p.column) * to.channels;
      const int first = me.group * to.size + me.vector * kVector;
      if (to.vectors) {
        Vector<T> v;
#pragma unroll
        for (int e = 0; e < kVector; ++e) v.lane[e] = value(step, e, first + e);
        store_vector(row + first, v);
      } else {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          if (me.vector * kVector + e < to.size)
            row[channel(first + e)] = value(step, e, first + e);
        }
      }
    }
    return;
  }
  // Through shared memory, so that neighbouring threads write neighbouring pixels.
  constexpr int kStride = DirectTiling::kPixels + 4 / sizeof(T) + (sizeof(T) > 4);
  T* const staged = reinterpret_cast<T*>(shared);
  const int thread = static_cast<int>(threadIdx.x), lane = thread & ((1 << t.lane_bits) - 1);
  __syncthreads();
#pragma unroll
  for (int step = 0; step < DirectTiling::kSteps; ++step) {
    const int slot = DirectThread::slot(t, step);
    if (slot >= DirectTiling::kPixels || !me.active) continue;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (me.vector * kVector + e >= to.size) continue;
      staged[(lane * kVector + e) * kStride + slot] =
          value(step, e, me.group * to.size + me.vector * kVector + e);
    }
  }
  __syncthreads();
  const int slot = thread % DirectTiling::kPixels;
  if (!tile.inside(t, slot)) return;
  const Pixel<int> p = tile.pixel(t, slot);
  T* const pixel = to.data + image + int64_t{p.row} * t.width + p.column;
  const int first_group = me.group - me.local_group;
  const int first_vector = me.vector - (lane & ((1 << t.group_bits) - 1));
  for (int row = thread / DirectTiling::kPixels; row < kVector << t.lane_bits;
       row += DirectTiling::kThreads / DirectTiling::kPixels) {
    const int from = row / kVector, group = first_group + (from >> t.group_bits);
    const int rest = (first_vector + (from & ((1 << t.group_bits) - 1))) * kVector + row % kVector;
    if (group < t.end_group && rest < to.size) {
      pixel[channel(group * to.size + rest) * image_pixels] = staged[row * kStride + slot];
    }
  }
}

template <typename T>
constexpr size_t store_tile_bytes() {
  return (DirectTiling::kPixels + 8) * (Vector<T>::kSize << DirectTiling::kLaneBits) * sizeof(T);
}

template <typename T>
struct DirectForwardArguments {
  Geometry<int> geometry;
  Inputs<T> inputs;
  const T* weight;  // packed
  const T* bias;
  DirectTarget<T> out;
  DirectTiling tiling;
  int multiple;
  int pass_blocks;  // vector blocks of one tile that a block goes through
};

// kGroup: channels of a group.
template <typename T, int kGroup>
__global__ void __launch_bounds__(DirectTiling::kThreads, sizeof(T) == 4 && kGroup < 4 ? 3 : 2)
    direct_forward_kernel(const DirectForwardArguments<T> a) {
  await_earlier_kernels();
  using S = Sum<T>;
  constexpr int kVector = Vector<T>::kSize, kSteps = DirectTiling::kSteps;
  const Geometry<int>& g = a.geometry;
  const DirectTiling& t = a.tiling;
  int block = static_cast<int>(blockIdx.x);
  const int part = block % a.multiple;
  block /= a.multiple;
  const int passes = (t.vector_blocks() + a.pass_blocks - 1) / a.pass_blocks;
  const int first_block = block % passes * a.pass_blocks;
  block /= passes;
  const int group_block = block % t.group_blocks();
  const DirectTile tile(t, block / t.group_blocks());
  const DirectPlans<T> plans(t, shared_memory());
  unsigned char* const staged = shared_memory() + t.plans() * DirectPlans<T>::kBytes;

  for (int vector_block = first_block;
       vector_block < first_block + a.pass_blocks && vector_block < t.vector_blocks();
       ++vector_block) {
    const DirectThread me(t, group_block, vector_block);
    const int channel = me.group * g.deformable_channels + me.vector * kVector;
    // Steps beyond the tile repeat some of its pixels, for nothing.
    const auto plan = [&](int tap, int step) {
      return DirectPlans<T>::index(t, me.local_group, tap,
                                   DirectThread::slot(t, step) & (DirectTiling::kPixels - 1));
    };

    S sums[kSteps][kVector] = {};
    for (int first_tap = 0; first_tap < g.taps; first_tap += t.tap_step) {
      const int taps = g.taps - first_tap < t.tap_step ? g.taps - first_tap : t.tap_step;
      if (taps < g.taps || vector_block == first_block) {
        __syncthreads();
        plans.make(g, a.inputs, t, tile, group_block, first_tap, taps);
        __syncthreads();
      }
      if (!me.active) continue;
      const T* weight = a.weight + (part * g.taps + first_tap) * g.channels + channel;
      for (int tap = 0; tap < taps; ++tap, weight += g.channels) {
        Vector<T> weights[kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          weights[i] = vector_of<T>(load_vector(weight + i * g.taps * g.channels));
        }
        Vector<T> corners[kSteps][4];
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const typename DirectPlans<T>::Place place = plans.places[plan(tap, step)];
          load_corners(g, a.inputs.x + channel, place.first, place.inside, corners[step]);
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const typename DirectPlans<T>::Weights shares = plans.weights[plan(tap, step)];
          S samples[kVector] = {};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
              samples[e] += shares.corner[i] * Element<T>::load(corners[step][i].lane[e]);
            }
          }
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
              sums[step][e] +=
                  Element<T>::load(weights[i].lane[e]) * samples[e / kGroup * kGroup + i];
            }
          }
        }
      }
    }

    const auto output = [&](int c) { return c * a.multiple + part; };
    store_tile(
        a.out, staged, t, tile, me,
        [&](int step, int e, int c) {
          return Element<T>::store(sums[step][e] + Element<T>::load(a.bias[output(c)]));
        },
        output);
  }
}

}  // namespace cuda
}  // namespace dcn

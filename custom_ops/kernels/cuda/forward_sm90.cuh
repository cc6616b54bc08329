// The forward kernel for Hopper: sampled columns go from registers straight into wgmma.
//
// A block owns kPixels output pixels times kOutputs output channels of one group, 64 pixels a
// warpgroup. A thread samples 16 bytes of channels for two pixels at a time, and since the order
// of the reduction is free, these are its fragments of the product's left operand; the right one,
// the weights in that order, comes to shared memory in bulk copies that one warp of its own issues.
//
// Two orders keep most corners in the L1 cache: pixels run in vertical strips, so that those of a
// block are a patch, and the reduction runs over the taps of 128 bytes of channels before the next
// channels. Where the samples lie is worked out once for all channels of a deformable group, in
// shared memory.
#pragma once

#include "forward.cuh"
#include "hopper.cuh"
#include "relayout.cuh"

namespace dcn {
namespace cuda {

constexpr int kStripWidth = 16;

// The output pixel at `i` in the order of strips.
template <typename Index>
DCN_DEVICE Pixel<Index> strip_pixel(const Geometry<Index>& g, Index i) {
  Pixel<Index> p;
  p.image = i / g.out_pixels;
  Index rest = i - p.image * g.out_pixels;
  const Index strip = rest / (kStripWidth * g.out_height);
  rest -= strip * (kStripWidth * g.out_height);
  const Index first = strip * kStripWidth;
  const Index width = g.out_width - first < kStripWidth ? g.out_width - first : kStripWidth;
  p.row = rest / width;
  p.column = first + (rest - p.row * width);
  return p;
}

// The order of the reduction: blocks of taps; in each, chunks of 128 bytes of channels; in each,
// the block's taps.
struct Steps {
  int taps, block_taps, chunks;

  __host__ __device__ int count() const { return taps * chunks; }
  // Of a step, the first tap of its block, the tap, and the chunk.
  struct Step {
    int block, tap, chunk;
  };
  __host__ __device__ Step at(int step) const {
    const int block = step / (chunks * block_taps) * block_taps;
    const int rest = step - block * chunks, size = block_size(block);
    return {block, block + rest % size, rest / size};
  }
  __host__ __device__ int index(int tap, int chunk) const {
    const int block = tap / block_taps * block_taps;
    return block * chunks + chunk * block_size(block) + tap - block;
  }
  __host__ __device__ int block_size(int block) const {
    return taps - block < block_taps ? taps - block : block_taps;
  }
};

// Weights as the kernel reads them: [groups][row tiles][steps], of each `outputs` rows of 128
// bytes, see hopper.cuh.
struct StagedWeight {
  WeightLayout plain;
  Steps steps;
  int row_tiles, outputs;

  static constexpr int kRowBytes = 128;
  static constexpr int kTaps = 3;  // whose vectors a thread packs
  // Of one step.
  __host__ __device__ int64_t step_vectors() const { return outputs * (kRowBytes / 16); }
  int64_t vectors() const { return plain.groups * row_tiles * steps.count() * step_vectors(); }
  __host__ __device__ int tap_runs() const { return (steps.taps + kTaps - 1) / kTaps; }
  int64_t threads() const { return vectors() / steps.taps * tap_runs(); }
};

// A thread's part of the weight: a vector of kTaps taps' steps.
template <typename T>
DCN_DEVICE void pack_staged_weight(const StagedWeight& w, int64_t thread, const T* plain,
                                   T* packed) {
  constexpr int kVector = Vector<T>::kSize, kWord = 4 / sizeof(T), kTaps = StagedWeight::kTaps;
  const int vector = static_cast<int>(thread % w.step_vectors()), row = vector / 8;
  thread /= w.step_vectors();
  const int first_tap = static_cast<int>(thread % w.tap_runs()) * kTaps;
  thread /= w.tap_runs();
  const int chunk = static_cast<int>(thread % w.steps.chunks);
  const int64_t tile = thread / w.steps.chunks, group = tile / w.row_tiles;
  if (group >= w.plain.groups) return;
  // A thread of the product holds eight neighbouring outputs of each 32, and of each 64 bytes of
  // channels one vector.
  const int place = vector % 8 ^ row % 8;
  const int output = row / 32 * 32 + row % 8 / 2 * 8 + row / 8 % 4 * 2 + row % 2;
  const int64_t m = tile % w.row_tiles * w.outputs + output;
  const int first = chunk * 8 * kVector + place / 4 * 4 * kVector + place % 4 * kWord;
  Vector<T> v[kTaps];
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    const Run c = w.plain.inputs.plain(first + e / kWord * kVector + e % kWord);
    const bool inside = c.count > 0 && m < w.plain.group_outputs;  // else there is padding
    const int64_t row_of_taps =
        (group * w.plain.group_outputs + m) * w.plain.inputs.channels() + c.first;
    const T* const from = plain + (row_of_taps * w.plain.taps + first_tap);
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      v[i].lane[e] = inside && first_tap + i < w.steps.taps
                         ? Element<T>::operand(Element<T>::load(from[i]))
                         : T{};
    }
  }
#pragma unroll
  for (int i = 0; i < kTaps; ++i) {
    if (first_tap + i >= w.steps.taps) return;
    const int64_t step = tile * w.steps.count() + w.steps.index(first_tap + i, chunk);
    store_vector(packed + (step * w.step_vectors() + vector) * kVector, v[i]);
  }
}

// Packs the weight in the first blocks, x in the others.
template <typename T>
__global__ void __launch_bounds__(Relayout::kThreads)
    pack_operands_kernel(const StagedWeight w, int weight_blocks, const T* __restrict__ weight,
                         T* __restrict__ packed_weight, const Relayout r, const T* __restrict__ x,
                         T* __restrict__ packed_x) {
  await_earlier_kernels();
  const int block = static_cast<int>(blockIdx.x) - weight_blocks;
  if (block >= 0) {
    pack_tile(r, static_cast<unsigned>(block), SameRows{}, false, x, packed_x);
  } else {
    const int64_t thread = int64_t{blockIdx.x} * Relayout::kThreads + threadIdx.x;
    pack_staged_weight(w, thread, weight, packed_weight);
  }
}

// Where a sample lies, and what its corners count. Rows and columns outside the image are moved to
// the next one inside, which then counts half at each of the two places.
template <typename Index>
struct Place {
  Index first;     // element offset of the top left corner, channel 0
  unsigned flags;  // kRight, kBelow: the other corners are other pixels; kInside: it samples at all

  static constexpr unsigned kRight = 1, kBelow = 2, kInside = 4;
};

template <typename T, typename Index>
DCN_DEVICE Place<Index> place_sample(const Geometry<Index>& g, Index image, const Sample<Sum<T>>& s,
                                     Sum<T> mask, Vector<float>& weights) {
  const auto axis = [](int32_t at, Index size, float distance, float (&counts)[2]) {
    const bool before = at < 0, beyond = at + 1 >= size;
    counts[0] = before ? 0.5f * distance : beyond ? 0.5f * (1 - distance) : 1 - distance;
    counts[1] = before || beyond ? counts[0] : distance;
    return !before && !beyond;
  };
  float y[2], x[2];
  const bool inside = s.y0 >= -1;
  const bool below = axis(s.y0, g.height, s.ly, y), right = axis(s.x0, g.width, s.lx, x);
#pragma unroll
  for (int i = 0; i < 4; ++i) weights.lane[i] = mask * (y[i / 2] * x[i % 2]);
  const Index row = s.y0 < 0 ? 0 : s.y0, column = s.x0 < 0 ? 0 : s.x0;
  return {((image * g.height + row) * g.width + column) * g.channels,
          (inside ? Place<Index>::kInside : 0) | (below ? Place<Index>::kBelow : 0) |
              (right ? Place<Index>::kRight : 0)};
}

template <typename T, int kTileOutputs, int kWarpgroupCount>
struct HopperTile {
  static constexpr int kWarpgroups = kWarpgroupCount, kThreads = 128 * kWarpgroups;
  static constexpr int kOutputs = kTileOutputs, kPixels = 64 * kWarpgroups;
  static constexpr int kProducts = kOutputs / 64;  // of a warpgroup, side by side
  static constexpr int kStageBytes = kOutputs * StagedWeight::kRowBytes;
  static constexpr int kStages = 3;
  static constexpr int kPatch = 64 * 17;  // floats, in which a warp turns 64 outputs of 16 pixels
  static constexpr size_t kShared = kStages * kStageBytes > kThreads / 32 * kPatch * 4
                                        ? kStages * kStageBytes
                                        : kThreads / 32 * kPatch * 4;
  static constexpr int kPlaces = 9;  // of a pixel, at a time: taps times deformable groups
  static constexpr int kOwnPlaces = (kPlaces * kPixels + kThreads - 1) / kThreads;  // of a thread
  static constexpr size_t kSharedBytes = 1024 + kShared + 2 * kStages * sizeof(PhaseBarrier) +
                                         kPlaces * kPixels * (sizeof(Place<int32_t>) + 16) +
                                         kOutputs * sizeof(float);
  // Whether there are registers to read offsets ahead in.
  static constexpr bool kReadsAhead = kOutputs <= 128;
};

template <typename T, typename Index>
struct HopperArguments {
  ForwardArguments<T, Index> forward;
  Steps steps;
  int split_steps;     // of a part of the reduction
  int chunk_groups;    // deformable groups that the channels of a chunk can belong to
  int inverse_groups;  // 2^16 over it, rounded up
};

template <typename T, typename Index, typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    forward_hopper_kernel(const HopperArguments<T, Index> h) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(DCN_CUDA_EMULATION)
  constexpr int kVector = Vector<T>::kSize, kSlice = 4 * kVector;  // channels of 64 bytes
  constexpr int kProducts = Tile::kProducts;
  const ForwardArguments<T, Index>& a = h.forward;
  const Geometry<Index>& g = a.geometry;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;

  Index tile = blockIdx.x;
  const Index row_tile = tile % a.row_tiles;
  tile /= a.row_tiles;
  const Index group = tile % a.groups;
  tile /= a.groups;
  const int64_t split = tile % a.splits;
  const Index first_pixel = tile / a.splits * Tile::kPixels;
  const int first_step = static_cast<int>(split) * h.split_steps, all_steps = h.steps.count();
  const int steps = all_steps - first_step < h.split_steps ? all_steps - first_step : h.split_steps;

  unsigned char* const base = shared_memory();
  unsigned char* const stages = base + (-shared_address(base) & 1023);
  PhaseBarrier* const full = reinterpret_cast<PhaseBarrier*>(stages + Tile::kShared);
  PhaseBarrier* const empty = full + Tile::kStages;
  Vector<float>* const weights = reinterpret_cast<Vector<float>*>(empty + Tile::kStages);
  Place<Index>* const places =
      reinterpret_cast<Place<Index>*>(weights + Tile::kPlaces * Tile::kPixels);
  float* const bias = reinterpret_cast<float*>(places + Tile::kPlaces * Tile::kPixels);
  const Index first_row = row_tile * Tile::kOutputs;
  const Index channels = a.groups * a.group_outputs, first = group * a.group_outputs + first_row;
  const int rows = static_cast<int>(
      a.group_outputs - first_row < Tile::kOutputs ? a.group_outputs - first_row : Tile::kOutputs);
  for (int i = thread; i < Tile::kOutputs; i += Tile::kThreads) {
    bias[i] = i < rows ? Element<T>::load(a.bias[first + i]) : 0;
  }
  if (thread == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      full[i].initialise(1);
      empty[i].initialise(Tile::kThreads / 32);
    }
    publish_barriers();
  }
  __syncthreads();

  const unsigned char* source =
      reinterpret_cast<const unsigned char*>(a.weight) +
      (static_cast<int64_t>(group * a.row_tiles + row_tile) * all_steps + first_step) *
          Tile::kStageBytes;
  const auto stage_weight = [&](int step) {
    const int stage = step % Tile::kStages;
    full[stage].arrive_and_expect(Tile::kStageBytes);
    copy_bulk(stages + stage * Tile::kStageBytes, source, Tile::kStageBytes, full + stage);
    source += Tile::kStageBytes;
  };
  // Works out where the pixels of the block sample, for a block of taps and the deformable groups
  // of a chunk, unless it is known.
  Steps::Step at = h.steps.at(first_step);
  const Index group_channel = group * g.group_channels;
  const int own = thread % Tile::kPixels;
  const bool own_valid = first_pixel + own < g.pixels;
  const Pixel<Index> own_pixel = strip_pixel(g, own_valid ? first_pixel + own : 0);
  Tap<T, Index> own_taps[Tile::kOwnPlaces];
  int known_block = -1;
  Index known_group = -1;
  const auto group_of = [&](int chunk) {
    return (group_channel + chunk * (2 * kSlice)) / g.deformable_channels;
  };
  const auto for_own_places = [&](int block, Index first_group, const auto& visit) {
    const int count = h.steps.block_size(block) * h.chunk_groups;
#pragma unroll
    for (int k = 0; k < Tile::kOwnPlaces; ++k) {
      const int i = thread / Tile::kPixels + k * (Tile::kThreads / Tile::kPixels);
      const int tap = i * h.inverse_groups >> 16;
      const Index deformable_group = first_group + i - tap * h.chunk_groups;
      if (i < count) {
        visit(own_taps[k], i * Tile::kPixels + own, block + tap, deformable_group,
              own_valid && deformable_group < g.deformable_groups);
      }
    }
  };
  const auto read_taps = [&](int block, Index first_group) {
    const auto read = [&](const Inputs<T>& inputs) {
      for_own_places(block, first_group,
                     [&](Tap<T, Index>& t, int, Index tap, Index deformable_group, bool valid) {
                       if (valid) t = Tap<T, Index>(g, inputs, own_pixel, tap, deformable_group);
                     });
    };
    // Were the type chosen at each load, loads into one register would wait for each other.
    Inputs<T> inputs = a.inputs;
    if (inputs.offset_is_float) {
      inputs.offset_is_float = true;
      read(inputs);
    } else {
      inputs.offset_is_float = false;
      read(inputs);
    }
  };
  const auto place_samples = [&] {
    const Index group_now = group_of(at.chunk);
    if (group_now == known_group && at.block == known_block) return;
    if (!Tile::kReadsAhead && known_group >= 0) read_taps(at.block, group_now);
    known_group = group_now;
    known_block = at.block;
    __syncthreads();
    for_own_places(
        at.block, group_now, [&](const Tap<T, Index>& t, int i, Index tap, Index, bool valid) {
          Place<Index> place = {0, 0};
          if (valid) {
            place = place_sample<T>(g, own_pixel.image, t.sample(g, a.inputs, own_pixel, tap),
                                    t.mask(a.inputs), weights[i]);
          }
          places[i] = place;
        });
    __syncthreads();
    if (Tile::kReadsAhead) {
      int block = at.block, chunk = at.chunk;
      do {
        if (++chunk == h.steps.chunks) {
          chunk = 0;
          block += h.steps.block_taps;
        }
      } while (block == known_block && group_of(chunk) == known_group);
      if (block < g.taps) read_taps(block, group_of(chunk));
    }
  };

  // This thread's two pixels are `row` and row + 8 of the block; of a slice it samples a vector.
  const int row = warp * 16 + lane / 4;
  // Where the next corners are, and those of the slice at hand.
  struct Corners2 {
    const T* first;
    Index right, below;
  };
  Corners2 next[2] = {};
  uint4 corners[2][4];
  Vector<float> counts[2];
  bool nothing[2];
  int entry;  // of `row`, in the lists of the samples
  // Whether all channels of a chunk are sampled alike, so that its second slice follows the first.
  const bool alike = h.chunk_groups == 1 && g.group_channels % (2 * kSlice) == 0;
  const auto find_corners = [&](int slice) {
    if (slice == 1 && alike) {
      next[0].first += kSlice;
      next[1].first += kSlice;
      return;
    }
    const Index chunk_channel = at.chunk * (2 * kSlice);
    Index channel = chunk_channel + slice * kSlice + lane % 4 * kVector;
    channel = group_channel + (channel < g.group_channels ? channel : chunk_channel);
    const int known =
        h.chunk_groups == 1 ? 0 : static_cast<int>(channel / g.deformable_channels - known_group);
    entry = ((at.tap - at.block) * h.chunk_groups + known) * Tile::kPixels + row;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Place<Index> place = places[entry + 8 * i];
      next[i] = {a.inputs.x + (place.first + channel),
                 place.flags & Place<Index>::kRight ? g.channels : 0,
                 place.flags & Place<Index>::kBelow ? g.width * g.channels : 0};
    }
  };
  const auto load_corner = [&](int i, int corner) {
    const Corners2& n = next[i];
    corners[i][corner] =
        load_vector(n.first + ((corner & 1 ? n.right : 0) + (corner & 2 ? n.below : 0)));
  };
  const auto read_counts = [&](int slice) {
    if (slice == 1 && alike) return;
    const bool padding =
        at.chunk * (2 * kSlice) + slice * kSlice + lane % 4 * kVector >= g.group_channels;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      counts[i] = weights[entry + 8 * i];
      nothing[i] = padding || !(places[entry + 8 * i].flags & Place<Index>::kInside);
    }
  };

  float sums[kProducts][32];
#pragma unroll
  for (int n = 0; n < kProducts; ++n) {
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[n][i] = 0;
  }
  uint32_t fragments[2][2][4];
  read_taps(at.block, group_of(at.chunk));
  await_earlier_kernels();
  if (thread == 0) {
    for (int step = 0; step < Tile::kStages - 1 && step < steps; ++step) stage_weight(step);
  }
  place_samples();
  find_corners(0);
#pragma unroll
  for (int c = 0; c < 8; ++c) load_corner(c / 4, c % 4);
  for (int step = 0; step < steps; ++step) {
    const int stage = step % Tile::kStages;
    const Matrix matrix_of_stage = matrix(stages + stage * Tile::kStageBytes);
#pragma unroll
    for (int slice = 0; slice < 2; ++slice) {
      read_counts(slice);
      const bool more = slice == 0 || step + 1 < steps;
      if (more) {
        if (slice == 1 && ++at.tap == at.block + h.steps.block_size(at.block)) {
          if (++at.chunk == h.steps.chunks) {
            at.chunk = 0;
            at.block += h.steps.block_taps;
          }
          at.tap = at.block;
          place_samples();
        }
        find_corners(1 - slice);
      }
      // Each corner's registers are loaded anew as soon as it has been added up.
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float blended[kVector] = {};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const Vector<T> v = vector_of<T>(corners[i][c]);
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            blended[e] += counts[i].lane[c] * Element<T>::load(v.lane[e]);
          }
          if (more) load_corner(i, c);
        }
        Vector<T> v;
#pragma unroll
        for (int e = 0; e < kVector; ++e) v.lane[e] = Element<T>::operand(blended[e]);
        const uint4 words = reinterpret_cast<const uint4&>(v);
        fragments[slice][0][i] = nothing[i] ? 0 : words.x;
        fragments[slice][0][2 + i] = nothing[i] ? 0 : words.y;
        fragments[slice][1][i] = nothing[i] ? 0 : words.z;
        fragments[slice][1][2 + i] = nothing[i] ? 0 : words.w;
      }
      if (slice == 0) full[stage].wait(step / Tile::kStages % 2);
      begin_products();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < kProducts; ++n) {
          multiply_warpgroup<Element<T>::kTensorType>(
              sums[n], fragments[slice][half],
              matrix_of_stage + (n * 64 * StagedWeight::kRowBytes + slice * 64 + half * 32) / 16);
        }
      }
      commit_products();
      wait_products<1>();
      __syncwarp();  // lane 0 arrives for all
      if (slice == 0 && step > 0 && lane == 0) empty[(step - 1) % Tile::kStages].arrive();
      if (slice == 1 && thread == 0 && step + Tile::kStages - 1 < steps) {
        if (step > 0) empty[(step - 1) % Tile::kStages].wait((step - 1) / Tile::kStages % 2);
        stage_weight(step + Tile::kStages - 1);
      }
      __syncwarp();
    }
  }
  wait_products<0>();
  __syncthreads();  // the stages are read no more

  const Index warp_pixel = first_pixel + warp * 16;
  const int r = lane / 4, q = lane % 4;
  if (a.partial) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Index index = warp_pixel + r + 8 * i;
      if (index >= g.pixels) continue;
      const Pixel<Index> p = strip_pixel(g, index);
      const int64_t pixel =
          split * g.pixels + (p.image * g.out_height + p.row) * g.out_width + p.column;
      float* const to = a.partial + (pixel * a.groups + group) * a.packed_outputs;
#pragma unroll
      for (int n = 0; n < 2 * kProducts; ++n) {
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          const Index m = first_row + n * 32 + q * 8 + j * 2;
          const float* const s = &sums[n / 2][n % 2 * 16 + j * 4 + 2 * i];
          if (m < a.packed_outputs) store_vector(to + m, Vector<float>{{s[0], s[1], s[4], s[5]}});
        }
      }
    }
    return;
  }

  if (a.channels_last) {
    const bool whole =
        (channels | first | rows) % 8 == 0 && reinterpret_cast<uintptr_t>(a.out) % 16 == 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Index index = warp_pixel + r + 8 * i;
      if (index >= g.pixels) continue;
      const Pixel<Index> p = strip_pixel(g, index);
      T* const to =
          a.out + ((p.image * g.out_height + p.row) * g.out_width + p.column) * channels + first;
#pragma unroll
      for (int n = 0; n < 2 * kProducts; ++n) {
        const int row = n * 32 + q * 8;
        alignas(16) T values[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          values[e] = Element<T>::store(sums[n / 2][n % 2 * 16 + e / 2 * 4 + 2 * i + e % 2] +
                                        bias[row + e]);
        }
        if (whole) {
          if (row < rows) {
#pragma unroll
            for (int v = 0; v < 8 / kVector; ++v) {
              reinterpret_cast<Vector<T>*>(to + row)[v] = reinterpret_cast<Vector<T>*>(values)[v];
            }
          }
        } else {
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            if (row + e < rows) to[row + e] = values[e];
          }
        }
      }
    }
    return;
  }

  // Through shared memory, so that a thread writes neighbouring pixels, four where rows allow it.
  float* const patch = reinterpret_cast<float*>(stages) + warp * Tile::kPatch;
  const auto turn_and_write = [&](auto pixels_at_a_time) {
    constexpr int kPixels = decltype(pixels_at_a_time)::value, kParts = 16 / kPixels;
    const int part = lane % kParts * kPixels;
    const Index index = warp_pixel + part;
    const Pixel<Index> p = strip_pixel(g, index < g.pixels ? index : 0);
    T* const to =
        a.out + (p.image * channels + first) * g.out_pixels + p.row * g.out_width + p.column;
#pragma unroll
    for (int n = 0; n < kProducts; ++n) {
      __syncwarp();
#pragma unroll
      for (int s = 0; s < 32; ++s) {
        const int m = s / 16 * 32 + q * 8 + s / 4 % 4 * 2 + s % 2;
        patch[m * 17 + r + s / 2 % 2 * 8] = sums[n][s];
      }
      __syncwarp();
      if (index >= g.pixels) continue;
#pragma unroll 8
      for (int m = lane / kParts; m < 64; m += 32 / kParts) {
        alignas(kPixels * sizeof(T)) T values[kPixels];
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          values[i] = Element<T>::store(patch[m * 17 + part + i] + bias[n * 64 + m]);
        }
        if (n * 64 + m < rows) {
          struct alignas(kPixels * sizeof(T)) Run {
            T value[kPixels];
          };
          *reinterpret_cast<Run*>(to + (n * 64 + m) * g.out_pixels) =
              reinterpret_cast<const Run&>(values);
        }
      }
    }
  };
  if (g.out_width % 4 == 0 && reinterpret_cast<uintptr_t>(a.out) % 16 == 0) {
    turn_and_write(std::integral_constant<int, 4>{});
  } else {
    turn_and_write(std::integral_constant<int, 1>{});
  }
#endif
}

}  // namespace cuda
}  // namespace dcn

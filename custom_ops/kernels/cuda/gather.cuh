// The deterministic gradient of x: instead of scattering with atomics, every input pixel gathers.
//
// The column gradients times the mask lie in memory, rounded to the storage type. An input pixel
// sums those of the samples in the bins around it, in the order of the bins.
#pragma once

#include "backward_data.cuh"
#include "bins.cuh"
#include "relayout.cuh"

namespace dcn {
namespace cuda {

template <typename T, typename Index>
struct GatherArguments {
  Bins<T, Index> bins;
  Chunk<Index> chunk;  // whose images and deformable groups the bins are of
  Relayout relayout;   // of the chunk's images
  const T* columns;    // as DataArguments::columns
  T* grad_x;           // the caller's, from the chunk's first image on

  static constexpr int kThreads = 512;
};

template <typename T, typename Index>
__global__ void __launch_bounds__(512, 2) gather_kernel(const GatherArguments<T, Index> a) {
  await_earlier_kernels();
  constexpr int kVector = Vector<T>::kSize;
  constexpr int kBatch = sizeof(T) == 8 ? 2 : 4;  // vectors whose loads are under way
  const Geometry<Index>& g = a.bins.geometry;
  const Chunk<Index>& chunk = a.chunk;
  const Index first_channel = chunk.first_group * g.deformable_channels + chunk.first_channel;
  RelayoutTile<T, GatherArguments<T, Index>::kThreads> tile(
      a.relayout, first_channel, first_channel + chunk.groups * chunk.channels);
  tile.for_each_vector([&](const auto& slot, int64_t at, int64_t packed) {
    const Index row = static_cast<Index>(at), within = static_cast<Index>(packed) - first_channel;
    const Index image = row / (g.height * g.width), rest = row - image * g.height * g.width;
    const int y = static_cast<int>(rest / g.width), x = static_cast<int>(rest - y * g.width);
    const Index group = within / chunk.channels;
    const int plane = static_cast<int>(image * chunk.groups + group);
    const T* const columns = a.columns + plane * g.taps * g.out_pixels * chunk.channels + within -
                             group * chunk.channels;
    // The two bins above the pixel, then the two below.
    const int* const upper = a.bins.start(plane, y - 1, x - 1);
    const int* const lower = a.bins.start(plane, y, x - 1);
    const int first = upper[0], count = upper[2] - first;
    const int second = lower[0] - count, total = count + lower[2] - lower[0];
    // Of a batch; a weight beyond the last sample is 0.
    Index entries[kBatch];
    Sum<T> next[kBatch];
    const auto read = [&](int i) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        entries[j] = 0;
        next[j] = 0;
        if (i + j >= total) continue;
        const BinnedSample<T> s =
            load_aligned(a.bins.samples + i + j + (i + j < count ? first : second));
        const int tap = s.entry >> a.bins.pixel_bits;
        entries[j] = tap * g.out_pixels + (s.entry & ((1 << a.bins.pixel_bits) - 1));
        const Sum<T> dy = y - s.y, dx = x - s.x;
        next[j] = (1 - (dy < 0 ? -dy : dy)) * (1 - (dx < 0 ? -dx : dx));
      }
    };
    Sum<T> sums[kVector] = {};
    read(0);
    for (int i = 0; i < total; i += kBatch) {
      uint4 vectors[kBatch];
      Sum<T> weights[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        weights[j] = next[j];
        vectors[j] =
            i + j < total ? load_vector(columns + entries[j] * chunk.channels) : uint4{0, 0, 0, 0};
      }
      read(i + kBatch);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const Vector<T> v = vector_of<T>(vectors[j]);
#pragma unroll
        for (int e = 0; e < kVector; ++e) sums[e] += weights[j] * Element<T>::load(v.lane[e]);
      }
    }
    Vector<T> result;
#pragma unroll
    for (int e = 0; e < kVector; ++e) result.lane[e] = Element<T>::store(sums[e]);
    if (a.relayout.channels_last) {
      write_run(a.grad_x, tile.along_channels(at, packed), result);
    } else {
      slot.write(result);
    }
  });
  if (a.relayout.channels_last) return;
  __syncthreads();
  tile.store_planes(a.grad_x);
}

}  // namespace cuda
}  // namespace dcn

// Layers with few channels per group, see direct.cuh: the gradient of x. Each input pixel gathers
// from the samples in the bins around it; what a sample passes on is a few weights times output
// gradients, made as it is needed.
#pragma once

#include "bins.cuh"
#include "direct.cuh"

namespace dcn {
namespace cuda {

template <typename T>
struct DirectGatherArguments {
  Bins<T> bins;
  const T* grad_out;  // packed: [pixels][packed channels times multiple]
  const T* weight;    // packed
  DirectTarget<T> grad_x;
  DirectTiling tiling;  // of x
  int multiple;
};

template <typename T, int kGroup, bool kSingle>
__global__ void __launch_bounds__(DirectTiling::kThreads, kSingle ? 3 : 2)
    direct_gather_kernel(const DirectGatherArguments<T> a) {
  await_earlier_kernels();
  using S = Sum<T>;
  constexpr int kVector = Vector<T>::kSize, kSteps = DirectTiling::kSteps;
  constexpr int kAhead = kGroup == 1   ? 3
                         : kGroup == 2 ? 2
                                       : 1;  // samples whose loads are under way together
  const Bins<T>& b = a.bins;
  const Geometry<int>& g = b.geometry;
  const DirectTiling& t = a.tiling;
  const int multiple = kSingle ? 1 : a.multiple;
  int block = static_cast<int>(blockIdx.x);
  const int vector_block = block % t.vector_blocks();
  block /= t.vector_blocks();
  const int group_block = block % t.group_blocks();
  DirectTile tile(t, block / t.group_blocks());
  const DirectThread me(t, group_block, vector_block);
  const int channel = me.group * g.deformable_channels + me.vector * kVector;
  const int plane = tile.image * b.groups + me.group - b.first_group;
  tile.image += b.first_image;
  const T* const above = a.grad_out + int64_t{tile.image} * g.out_pixels * g.channels * multiple;

  S sums[kSteps][kVector] = {};
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int slot = DirectThread::slot(t, step);
    if (!me.active || !tile.inside(t, slot)) continue;
    const Pixel<int> p = tile.pixel(t, slot);
    // The two bins above the pixel, then the two below.
    const int* const upper = b.start(plane, p.row - 1, p.column - 1);
    const int* const lower = b.start(plane, p.row, p.column - 1);
    const int first = upper[0], count = upper[2] - first;
    const int second = lower[0] - count, total = count + lower[2] - lower[0];
    for (int i = 0; i < total; i += kAhead) {
      BinnedSample<T> samples[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int at = i + j < total ? i + j : i;
        samples[j] = b.samples[at + (at < count ? first : second)];
      }
      for (int part = 0; part < multiple; ++part) {
        Vector<T> gradients[kAhead], weights[kAhead][kGroup];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const int tap = samples[j].entry >> b.pixel_bits;
          const int pixel = samples[j].entry & ((1 << b.pixel_bits) - 1);
          const T* const from = above + (pixel * g.channels + channel) * multiple;
          if (kSingle) {
            gradients[j] = vector_of<T>(load_vector(from));
          } else {
#pragma unroll
            for (int e = 0; e < kVector; ++e) gradients[j].lane[e] = from[e * multiple + part];
          }
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            weights[j][k] = vector_of<T>(
                load_vector(a.weight + ((part + k) * g.taps + tap) * g.channels + channel));
          }
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          if (i + j >= total) continue;
          const S dy = p.row - samples[j].y, dx = p.column - samples[j].x;
          const S share = samples[j].mask * ((1 - (dy < 0 ? -dy : dy)) * (1 - (dx < 0 ? -dx : dx)));
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            S gradient = 0;
#pragma unroll
            for (int k = 0; k < kGroup; ++k) {
              const int output = e / kGroup * kGroup + k;
              gradient += Element<T>::load(weights[j][e % kGroup].lane[output]) *
                          Element<T>::load(gradients[j].lane[output]);
            }
            sums[step][e] += share * gradient;
          }
        }
      }
    }
  }
  store_tile(
      a.grad_x, shared_memory(), t, tile, me,
      [&](int step, int e, int) { return Element<T>::store(sums[step][e]); },
      [](int c) { return c; });
}

}  // namespace cuda
}  // namespace dcn

// The gradient of bias: grad_out summed over pixels, without atomics and in a fixed order.
#pragma once

#include "relayout.cuh"

namespace dcn {
namespace cuda {

// The pixels of the whole batch in `splits` ranges, each of which has its partial sums.
struct BiasLayout {
  int64_t channels, pixels, image_pixels;
  int64_t splits, split_pixels;

  static constexpr int kThreads = 256;
  template <bool kChannelsLast>
  static constexpr int kLanes = kChannelsLast ? 8 : 1;  // threads that share a pixel
  template <typename T, bool kChannelsLast>
  static constexpr int kOwned = kChannelsLast ? Vector<T>::kSize : 1;  // channels per thread
};

// A block sums one range for one channel, or for 128 bytes of channels where they come last.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(BiasLayout::kThreads)
    backward_bias_kernel(const BiasLayout b, const T* grad_out, Sum<T>* partial) {
  await_earlier_kernels();
  constexpr int kThreads = BiasLayout::kThreads, kVector = Vector<T>::kSize;
  constexpr int kLanes = BiasLayout::kLanes<kChannelsLast>, kRows = kThreads / kLanes;
  constexpr int kOwned = BiasLayout::kOwned<T, kChannelsLast>;
  Sum<T>* const sums = reinterpret_cast<Sum<T>*>(shared_memory());
  const int thread = static_cast<int>(threadIdx.x);
  const unsigned splits = static_cast<unsigned>(b.splits);
  const int64_t split = blockIdx.x % splits;
  const int64_t channel = (int64_t{blockIdx.x / splits} * kLanes + thread % kLanes) * kOwned;
  int64_t first = split * b.split_pixels;
  const int64_t end = b.pixels - first < b.split_pixels ? b.pixels : first + b.split_pixels;

  Sum<T> own[kOwned] = {};
  const auto add = [&](const Run& run) {
    const Vector<T> v = read_run(grad_out, run);
#pragma unroll
    for (int e = 0; e < kVector; ++e) own[e % kOwned] += Element<T>::load(v.lane[e]);
  };
  if constexpr (kChannelsLast) {
    for (first += thread / kLanes; first < end && channel < b.channels; first += kRows) {
      add({first * b.channels + channel, b.channels - channel});
    }
  } else {
    while (first < end) {
      const int64_t image = first / b.image_pixels, pixel = first - image * b.image_pixels;
      const int64_t rest = b.image_pixels - pixel, count = rest < end - first ? rest : end - first;
      const int64_t start = (image * b.channels + channel) * b.image_pixels + pixel;
      for (int64_t i = thread * kVector; i < count; i += kThreads * kVector) {
        add({start + i, count - i});
      }
      first += count;
    }
  }

#pragma unroll
  for (int e = 0; e < kOwned; ++e) sums[e * kThreads + thread] = own[e];
  for (int step = kRows / 2; step > 0; step /= 2) {
    __syncthreads();
    if (thread / kLanes < step) {
#pragma unroll
      for (int e = 0; e < kOwned; ++e) {
        sums[e * kThreads + thread] += sums[e * kThreads + thread + step * kLanes];
      }
    }
  }
  if (thread < kLanes) {
#pragma unroll
    for (int e = 0; e < kOwned; ++e) {
      if (channel + e < b.channels) {
        partial[split * b.channels + channel + e] = sums[e * kThreads + thread];
      }
    }
  }
}

// A warp per channel.
template <typename T>
__global__ void __launch_bounds__(BiasLayout::kThreads)
    sum_bias_kernel(const BiasLayout b, const Sum<T>* partial, T* grad_bias) {
  await_earlier_kernels();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t channel = (int64_t{blockIdx.x} * BiasLayout::kThreads + threadIdx.x) / 32;
  Sum<T> sum = 0;
  for (int64_t s = lane; s < b.splits && channel < b.channels; s += 32) {
    sum += partial[s * b.channels + channel];
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (lane == 0 && channel < b.channels) grad_bias[channel] = Element<T>::store(sum);
}

}  // namespace cuda
}  // namespace dcn

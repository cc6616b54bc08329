// Copies between the caller's layouts and the packed ones: images, weights and their gradients.
#pragma once

#include "device.cuh"

namespace dcn {
namespace cuda {

// `count` runs of `size` channels, each padded with zeros to `padded` channels.
struct Segments {
  int64_t count, size, padded;

  __host__ __device__ int64_t channels() const { return count * size; }
  __host__ __device__ int64_t packed_channels() const { return count * padded; }
  // The caller's channel for a packed one, or -1 for padding.
  __host__ __device__ int64_t plain(int64_t packed) const {
    const int64_t segment = packed / padded, rest = packed - segment * padded;
    return rest < size ? segment * size + rest : -1;
  }
};

// Images as [image][pixel][packed channel] on one side, NCHW or NHWC on the other. A block moves
// 32 pixels by 32 channels through shared memory, each side in its own order.
struct Relayout {
  Segments segments;
  int64_t images, pixels;
  bool channels_last;

  static constexpr int kTile = 32, kThreads = 256;
  template <typename T>
  static constexpr size_t shared_bytes() {
    return kTile * (kTile + 1) * sizeof(T);
  }
  __host__ __device__ int64_t pixel_tiles() const { return (pixels + kTile - 1) / kTile; }
  __host__ __device__ int64_t channel_tiles() const {
    return (segments.packed_channels() + kTile - 1) / kTile;
  }
  __host__ __device__ int64_t tiles() const { return images * pixel_tiles() * channel_tiles(); }
};

template <typename From, typename To, bool kPack, typename Convert>
DCN_DEVICE void relayout(const Relayout& r, const From* from, To* to, const Convert& convert) {
  constexpr int kTile = Relayout::kTile;
  To* const tile = reinterpret_cast<To*>(shared_memory());
  int64_t block = blockIdx.x;
  const int64_t first_channel = block % r.channel_tiles() * kTile;
  block /= r.channel_tiles();
  const int64_t first_pixel = block % r.pixel_tiles() * kTile;
  const int64_t image = block / r.pixel_tiles();
  const int64_t channels = r.segments.channels(), packed_channels = r.segments.packed_channels();

  const auto for_each = [&](bool along_channels, const auto& visit) {
    const int lane = static_cast<int>(threadIdx.x) % kTile;
    for (int i = static_cast<int>(threadIdx.x) / kTile; i < kTile;
         i += Relayout::kThreads / kTile) {
      const int c = along_channels ? lane : i, p = along_channels ? i : lane;
      const int64_t packed = first_channel + c, pixel = first_pixel + p;
      if (packed >= packed_channels || pixel >= r.pixels) continue;
      const int64_t plain = r.segments.plain(packed);
      const int64_t plain_index = plain < 0         ? -1
                                  : r.channels_last ? (image * r.pixels + pixel) * channels + plain
                                                    : (image * channels + plain) * r.pixels + pixel;
      const int64_t packed_index = (image * r.pixels + pixel) * packed_channels + packed;
      visit(tile[p * (kTile + 1) + c], kPack ? plain_index : packed_index,
            kPack ? packed_index : plain_index);
    }
  };
  for_each(!kPack || r.channels_last, [&](To& staged, int64_t source, int64_t) {
    staged = source < 0 ? To{} : convert(from[source]);
  });
  __syncthreads();
  for_each(kPack || r.channels_last, [&](To& staged, int64_t, int64_t target) {
    if (target >= 0) to[target] = staged;
  });
}

// `round`: to operands of the product.
template <typename T>
__global__ void __launch_bounds__(Relayout::kThreads)
    pack_kernel(const Relayout r, bool round, const T* plain, T* packed) {
  relayout<T, T, true>(r, plain, packed,
                       [=](T v) { return round ? Element<T>::operand(Element<T>::load(v)) : v; });
}

template <typename T>
__global__ void __launch_bounds__(Relayout::kThreads)
    unpack_kernel(const Relayout r, const Sum<T>* packed, T* plain) {
  relayout<Sum<T>, T, false>(r, packed, plain, [](Sum<T> v) { return Element<T>::store(v); });
}

// Weights: the caller's are [groups][group outputs][group channels][taps].
struct WeightLayout {
  int64_t groups, group_outputs, taps;
  Segments inputs;   // of one group
  Segments outputs;  // of one group

  static constexpr int kThreads = 256;
  __host__ __device__ int64_t plain_size() const {
    return groups * group_outputs * taps * inputs.channels();
  }
  __host__ __device__ int64_t forward_size() const {
    return groups * group_outputs * taps * inputs.packed_channels();
  }
  __host__ __device__ int64_t backward_size() const {
    return groups * taps * inputs.packed_channels() * outputs.packed_channels();
  }
  __host__ __device__ int64_t plain_index(int64_t group, int64_t m, int64_t c, int64_t tap) const {
    return ((group * group_outputs + m) * inputs.channels() + c) * taps + tap;
  }
};

// To [groups][group outputs][taps][packed channels], as the forward product reads it.
template <typename T>
__global__ void __launch_bounds__(WeightLayout::kThreads)
    pack_forward_weight_kernel(const WeightLayout w, const T* plain, T* packed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, size = w.forward_size();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    const int64_t channels = w.inputs.packed_channels();
    const int64_t c = w.inputs.plain(i % channels), tap = i / channels % w.taps;
    const int64_t m = i / channels / w.taps;
    packed[i] =
        c < 0 ? T{} : Element<T>::operand(Element<T>::load(plain[w.plain_index(0, m, c, tap)]));
  }
}

// To [groups][taps][packed channels][packed outputs], as the product of column gradients reads it.
template <typename T>
__global__ void __launch_bounds__(WeightLayout::kThreads)
    pack_backward_weight_kernel(const WeightLayout w, const T* plain, T* packed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, size = w.backward_size();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    const int64_t outputs = w.outputs.packed_channels(), channels = w.inputs.packed_channels();
    const int64_t m = w.outputs.plain(i % outputs), c = w.inputs.plain(i / outputs % channels);
    const int64_t tap = i / outputs / channels % w.taps;
    const int64_t group = i / outputs / channels / w.taps;
    packed[i] = m < 0 || c < 0
                    ? T{}
                    : Element<T>::operand(Element<T>::load(plain[w.plain_index(group, m, c, tap)]));
  }
}

// Sums the splits' partial weight gradients, each [groups][group outputs][taps][packed channels],
// in their order.
template <typename T>
__global__ void __launch_bounds__(WeightLayout::kThreads)
    unpack_weight_kernel(const WeightLayout w, int splits, const Sum<T>* partial, T* plain) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, size = w.forward_size();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step) {
    const int64_t channels = w.inputs.packed_channels();
    const int64_t c = w.inputs.plain(i % channels), tap = i / channels % w.taps;
    if (c < 0) continue;
    Sum<T> sum = 0;
    for (int s = 0; s < splits; ++s) sum += partial[s * size + i];
    plain[w.plain_index(0, i / channels / w.taps, c, tap)] = Element<T>::store(sum);
  }
}

}  // namespace cuda
}  // namespace dcn

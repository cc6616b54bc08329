// Copies between the caller's layouts and the packed ones: images, weights and their gradients.
//
// All of them transpose planes, [image][channel][pixel], to [image][pixel][packed channel] or back.
// In the forward product's weight output channels are the images and taps the pixels; in the one
// for column gradients output channels are the channels, and (input channel, tap) are the pixels.
#pragma once

#include <type_traits>

#include "device.cuh"

namespace dcn {
namespace cuda {

// Neighbours in the caller's tensor, from element `first` on; none where count <= 0.
struct Run {
  int64_t first, count;
};

// `count` runs of `size` channels, each padded with zeros to `padded` channels.
struct Segments {
  int64_t count, size, padded;

  __host__ __device__ int64_t channels() const { return count * size; }
  __host__ __device__ int64_t packed_channels() const { return count * padded; }
  // The caller's channels that lie at a packed one and after it; none at padding and at the end.
  DCN_DEVICE Run plain(int64_t packed) const {
    if (size == padded) return {packed, channels() - packed};
    const int64_t segment = packed / padded, rest = packed - segment * padded;
    return {segment * size + rest, segment < count ? size - rest : 0};
  }
  DCN_DEVICE int64_t packed(int64_t plain) const {
    return size == padded ? plain : plain / size * padded + plain % size;
  }
};

// A vector of the caller's elements, with zeros beyond the end of the run.
template <typename T>
DCN_DEVICE Vector<T> read_run(const T* from, const Run& run) {
  from += run.first;
  if (run.count >= Vector<T>::kSize && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    return vector_of<T>(load_vector(from));
  }
  Vector<T> v;
#pragma unroll
  for (int e = 0; e < Vector<T>::kSize; ++e) v.lane[e] = e < run.count ? from[e] : T{};
  return v;
}
template <typename T>
DCN_DEVICE void write_run(T* to, const Run& run, const Vector<T>& v) {
  to += run.first;
  if (run.count >= Vector<T>::kSize && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    store_vector(to, v);
    return;
  }
#pragma unroll
  for (int e = 0; e < Vector<T>::kSize; ++e) {
    if (e < run.count) to[e] = v.lane[e];
  }
}

struct Relayout {
  Segments segments;
  int64_t images, pixels;
  bool channels_last;  // the caller's is [image][pixel][channel]

  // A block's tile is 64 pixels x 128 bytes of channels.
  static constexpr int kThreads = 256, kPixels = 64, kVectors = 8;
  template <typename T>
  static constexpr int kChannels = kVectors * Vector<T>::kSize;

  template <typename T>
  __host__ __device__ int64_t channel_tiles() const {
    return (segments.packed_channels() + kChannels<T> - 1) / kChannels<T>;
  }
  __host__ __device__ int64_t pixel_tiles() const { return (pixels + kPixels - 1) / kPixels; }
  template <typename T>
  __host__ __device__ int64_t tiles() const {
    return images * pixel_tiles() * channel_tiles<T>();
  }
};

// A block's tile in shared memory, filled and emptied by vectors along pixels or along channels.
// Its words hold one channel, or two of a half type, and are placed so that neither order has bank
// conflicts.
template <typename T>
class RelayoutTile {
 public:
  static constexpr size_t kBytes = [] {
    return sizeof(T) == 8 ? 8 * (64 * 17 + 1) : 4 * (64 * 33 + Vector<T>::kSize / 2);
  }();

  DCN_DEVICE explicit RelayoutTile(const Relayout& r)
      : r_(r), words_(reinterpret_cast<Word*>(shared_memory())) {
    const unsigned channel_tiles = static_cast<unsigned>(r.channel_tiles<T>());
    const unsigned pixel_tiles = static_cast<unsigned>(r.pixel_tiles());
    const unsigned pixel_tile = blockIdx.x / channel_tiles;
    first_channel_ = int64_t{blockIdx.x - pixel_tile * channel_tiles} * Relayout::kChannels<T>;
    image_ = pixel_tile / pixel_tiles;
    first_pixel_ = (pixel_tile - image_ * pixel_tiles) * Relayout::kPixels;
  }
  DCN_DEVICE int64_t image() const { return image_; }

  // The caller's elements at a pixel from a packed channel on, where channels come last.
  DCN_DEVICE Run along_channels(int64_t pixel, int64_t channel) const {
    const Run plain = r_.segments.plain(channel);
    return {(image_ * r_.pixels + pixel) * r_.segments.channels() + plain.first, plain.count};
  }

  // From and to the caller's planes.
  DCN_DEVICE void load_planes(const T* plain) {
    for_each_row([&](int word, int pixel, const Run(&runs)[kPerWord]) {
      Vector<T> rows[kPerWord];
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) rows[j] = read_run(plain, runs[j]);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if constexpr (kPerWord == 2) {
          at(pixel + e, word) = rows[0].lane[e].bits | uint32_t{rows[1].lane[e].bits} << 16;
        } else {
          at(pixel + e, word) = reinterpret_cast<const Word&>(rows[0].lane[e]);
        }
      }
    });
  }
  DCN_DEVICE void store_planes(T* plain) {
    for_each_row([&](int word, int pixel, const Run(&runs)[kPerWord]) {
      Vector<T> rows[kPerWord];
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const Word w = at(pixel + e, word);
        if constexpr (kPerWord == 2) {
          rows[0].lane[e].bits = static_cast<uint16_t>(w);
          rows[1].lane[e].bits = static_cast<uint16_t>(w >> 16);
        } else {
          rows[0].lane[e] = reinterpret_cast<const T&>(w);
        }
      }
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) write_run(plain, runs[j], rows[j]);
    });
  }

  // Calls visit(vector, pixel, packed channel) for the tile's vectors along channels.
  class Slot;
  template <typename Visit>
  DCN_DEVICE void for_each_vector(const Visit& visit) {
#pragma unroll
    for (int i = 0; i < Relayout::kPixels * Relayout::kVectors; i += Relayout::kThreads) {
      const int at = i + static_cast<int>(threadIdx.x);
      const int row = at / Relayout::kVectors, vector = at % Relayout::kVectors;
      const int64_t pixel = first_pixel_ + row, channel = first_channel_ + vector * kVector;
      if (pixel < r_.pixels && channel < r_.segments.packed_channels()) {
        visit(Slot(*this, row, vector * (kVector / kPerWord)), pixel, channel);
      }
    }
  }

 private:
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr int kVector = Vector<T>::kSize;
  static constexpr int kPerWord = sizeof(T) == 2 ? 2 : 1;
  static constexpr int kWords = Relayout::kChannels<T> / kPerWord;
  struct alignas(16) Words {
    Word word[16 / sizeof(Word)];
  };

  // Along pixels a warp has kVector / 2 words of every kVector-th pixel, along channels four
  // pixels: an odd stride, and a step after half of the pixels, give all of them banks of their
  // own.
  DCN_DEVICE Word& at(int pixel, int word) {
    return words_[pixel * (kWords + 1) + pixel / 32 * (kVector / 2) + word];
  }

  // Calls visit(word, first pixel, runs of the caller's) for the tile's vectors along pixels.
  template <typename Visit>
  DCN_DEVICE void for_each_row(const Visit& visit) {
    constexpr int kRowVectors = Relayout::kPixels / kVector;
    const int64_t channels = r_.segments.channels();
#pragma unroll
    for (int i = 0; i < kWords * kRowVectors; i += Relayout::kThreads) {
      const int word = (i + static_cast<int>(threadIdx.x)) / kRowVectors;
      const int row = (i + static_cast<int>(threadIdx.x)) % kRowVectors * kVector;
      const int64_t pixel = first_pixel_ + row;
      Run runs[kPerWord];
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) {
        const Run plain = r_.segments.plain(first_channel_ + word * kPerWord + j);
        runs[j].first = (image_ * channels + plain.first) * r_.pixels + pixel;
        runs[j].count = plain.count > 0 ? r_.pixels - pixel : 0;
      }
      visit(word, row, runs);
    }
  }

  const Relayout& r_;
  Word* const words_;
  int64_t image_, first_pixel_, first_channel_;
};

// A vector along channels in the tile.
template <typename T>
class RelayoutTile<T>::Slot {
 public:
  DCN_DEVICE Slot(RelayoutTile& tile, int row, int word) : first_(&tile.at(row, word)) {}
  DCN_DEVICE Vector<T> read() const {
    Vector<T> v;
#pragma unroll
    for (int i = 0; i < kCount; ++i) reinterpret_cast<Words&>(v).word[i] = first_[i];
    return v;
  }
  DCN_DEVICE void write(const Vector<T>& v) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) first_[i] = reinterpret_cast<const Words&>(v).word[i];
  }

 private:
  static constexpr int kCount = 16 / sizeof(Word);
  Word* const first_;
};

// Where the packed rows of an image's pixels are: in order, or those of (channel, tap) at
// [tap][packed channel].
struct PixelRows {
  int64_t count;
  DCN_DEVICE int64_t operator()(int64_t pixel) const { return pixel; }
};
struct TapRows {
  int64_t count, taps;
  Segments channels;
  DCN_DEVICE int64_t operator()(int64_t pixel) const {
    const int64_t channel = pixel / taps, tap = pixel - channel * taps;
    return tap * channels.packed_channels() + channels.packed(channel);
  }
};

// `round`: to operands of the product.
template <typename T, typename Rows>
__global__ void __launch_bounds__(Relayout::kThreads)
    pack_kernel(const Relayout r, const Rows rows, bool round, const T* plain, T* packed) {
  RelayoutTile<T> tile(r);
  if (!r.channels_last) {
    tile.load_planes(plain);
    __syncthreads();
  }
  tile.for_each_vector([&](const auto& slot, int64_t pixel, int64_t channel) {
    Vector<T> v =
        r.channels_last ? read_run(plain, tile.along_channels(pixel, channel)) : slot.read();
    if (round) {
#pragma unroll
      for (int e = 0; e < Vector<T>::kSize; ++e) {
        v.lane[e] = Element<T>::operand(Element<T>::load(v.lane[e]));
      }
    }
    const int64_t row = tile.image() * rows.count + rows(pixel);
    store_vector(packed + row * r.segments.packed_channels() + channel, v);
  });
}

// The sum of `parts` packed tensors, in their order.
template <typename T>
__global__ void __launch_bounds__(Relayout::kThreads)
    unpack_kernel(const Relayout r, int parts, const Sum<T>* packed, T* plain) {
  constexpr int kVector = Vector<T>::kSize, kSumVector = Vector<Sum<T>>::kSize;
  const int64_t channels = r.segments.packed_channels();
  RelayoutTile<T> tile(r);
  tile.for_each_vector([&](const auto& slot, int64_t pixel, int64_t channel) {
    const Sum<T>* from = packed + (tile.image() * r.pixels + pixel) * channels + channel;
    Sum<T> sums[kVector] = {};
    for (int part = 0; part < parts; ++part, from += r.images * r.pixels * channels) {
#pragma unroll
      for (int e = 0; e < kVector; e += kSumVector) {
        const Vector<Sum<T>> v = vector_of<Sum<T>>(load_vector(from + e));
#pragma unroll
        for (int i = 0; i < kSumVector; ++i) sums[e + i] += v.lane[i];
      }
    }
    Vector<T> v;
#pragma unroll
    for (int e = 0; e < kVector; ++e) v.lane[e] = Element<T>::store(sums[e]);
    if (r.channels_last) {
      write_run(plain, tile.along_channels(pixel, channel), v);
    } else {
      slot.write(v);
    }
  });
  if (!r.channels_last) {
    __syncthreads();
    tile.store_planes(plain);
  }
}

// Weights: the caller's are [groups][group outputs][group channels][taps].
struct WeightLayout {
  int64_t groups, group_outputs, taps;
  Segments inputs;   // of one group
  Segments outputs;  // of one group

  // [groups][group outputs][taps][packed channels], as the forward product reads it.
  int64_t forward_size() const { return groups * group_outputs * taps * inputs.packed_channels(); }
  Relayout forward() const {
    return taps == 1 ? Relayout{inputs, 1, groups * group_outputs, true}
                     : Relayout{inputs, groups * group_outputs, taps, false};
  }
  // [groups][taps][packed channels][packed outputs], as the product of column gradients reads it.
  int64_t backward_size() const {
    return groups * backward_rows().count * outputs.packed_channels();
  }
  Relayout backward() const { return {outputs, groups, inputs.channels() * taps, false}; }
  TapRows backward_rows() const { return {taps * inputs.packed_channels(), taps, inputs}; }
};

}  // namespace cuda
}  // namespace dcn

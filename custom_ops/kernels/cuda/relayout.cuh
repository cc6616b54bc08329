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

// One tensor in both layouts; its rows are the pixels of all images.
struct Relayout {
  Segments segments;
  int64_t images, pixels;
  bool channels_last;  // the caller's is [image][pixel][channel]

  // A block's tile is 64 rows x 128 bytes of channels.
  static constexpr int kThreads = 256, kRows = 64, kVectors = 8;
  template <typename T>
  static constexpr int kChannels = kVectors * Vector<T>::kSize;

  __host__ __device__ int64_t rows() const { return images * pixels; }
  template <typename T>
  __host__ __device__ int64_t channel_tiles() const {
    return (segments.packed_channels() + kChannels<T> - 1) / kChannels<T>;
  }
  template <typename T>
  int64_t tiles() const {
    return (rows() + kRows - 1) / kRows * channel_tiles<T>();
  }
};

// A block's tile in shared memory, filled and emptied along rows or along channels. Its words hold
// one channel, or two of a half type, and lie so that neither order has bank conflicts.
template <typename T, int kThreads = Relayout::kThreads>
class RelayoutTile {
 public:
  static constexpr size_t kBytes =
      sizeof(T) == 8 ? 8 * (64 * 17 + 1) : 4 * (64 * 33 + Vector<T>::kSize / 2);

  DCN_DEVICE explicit RelayoutTile(const Relayout& r, unsigned tile = blockIdx.x)
      : RelayoutTile(r, 0, r.segments.packed_channels(), tile) {}
  // Of the packed channels from `first` to `end`, which the tiles are of.
  DCN_DEVICE RelayoutTile(const Relayout& r, int64_t first, int64_t end, unsigned tile = blockIdx.x)
      : r_(r), words_(reinterpret_cast<Word*>(shared_memory())), end_channel_(end) {
    constexpr int64_t kChannels = Relayout::kChannels<T>;
    const unsigned channel_tiles = static_cast<unsigned>((end - first + kChannels - 1) / kChannels);
    const unsigned row_tile = tile / channel_tiles;
    first_row_ = int64_t{row_tile} * Relayout::kRows;
    first_channel_ = first + int64_t{tile - row_tile * channel_tiles} * kChannels;
  }

  // The caller's elements of a row from a packed channel on, where channels come last.
  DCN_DEVICE Run along_channels(int64_t row, int64_t channel) const {
    const Run plain = r_.segments.plain(channel);
    return {row * r_.segments.channels() + plain.first, plain.count};
  }

  // From and to the caller's planes: by vectors, or by elements where those are not aligned.
  DCN_DEVICE void load_planes(const T* plain) {
    if (!in_vectors(plain)) {
      for_each_element([&](T& staged, int64_t at) { staged = at < 0 ? T{} : plain[at]; });
      return;
    }
    for_each_plane_vector([&](int row, int word, const int64_t (&at)[kPerWord]) {
      Vector<T> v[kPerWord];
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) {
        v[j] = vector_of<T>(at[j] < 0 ? uint4{0, 0, 0, 0} : load_vector(plain + at[j]));
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if constexpr (kPerWord == 2) {
          word_at(row + e, word) = v[0].lane[e].bits | uint32_t{v[1].lane[e].bits} << 16;
        } else {
          word_at(row + e, word) = reinterpret_cast<const Word&>(v[0].lane[e]);
        }
      }
    });
  }
  DCN_DEVICE void store_planes(T* plain) {
    if (!in_vectors(plain)) {
      for_each_element([&](const T& staged, int64_t at) {
        if (at >= 0) plain[at] = staged;
      });
      return;
    }
    for_each_plane_vector([&](int row, int word, const int64_t (&at)[kPerWord]) {
      Vector<T> v[kPerWord];
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const Word w = word_at(row + e, word);
        if constexpr (kPerWord == 2) {
          v[0].lane[e].bits = static_cast<uint16_t>(w);
          v[1].lane[e].bits = static_cast<uint16_t>(w >> 16);
        } else {
          v[0].lane[e] = reinterpret_cast<const T&>(w);
        }
      }
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) {
        if (at[j] >= 0) store_vector(plain + at[j], v[j]);
      }
    });
  }

  // Calls visit(slot, row, packed channel) for the tile's vectors along channels.
  class Slot;
  template <typename Visit>
  DCN_DEVICE void for_each_vector(const Visit& visit) {
#pragma unroll
    for (int i = 0; i < Relayout::kRows * Relayout::kVectors; i += kThreads) {
      const int at = i + static_cast<int>(threadIdx.x);
      const int row = at / Relayout::kVectors, vector = at % Relayout::kVectors;
      const int64_t channel = first_channel_ + vector * kVector;
      if (first_row_ + row < r_.rows() && channel < end_channel_) {
        visit(Slot(&word_at(row, vector * (kVector / kPerWord))), first_row_ + row, channel);
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

  // With vectors along rows a warp has kVector / 2 words of every kVector-th row, with those along
  // channels four rows: the odd stride and the step halfway give all of them banks of their own.
  DCN_DEVICE Word& word_at(int row, int word) {
    return words_[row * (kWords + 1) + row / 32 * (kVector / 2) + word];
  }

  // Whether planes consist of whole aligned vectors.
  DCN_DEVICE bool in_vectors(const T* plain) const {
    return r_.pixels % kVector == 0 && reinterpret_cast<uintptr_t>(plain) % 16 == 0;
  }
  // The caller's element at channel 0 of a row.
  DCN_DEVICE int64_t plane_index(int64_t row) const {
    const int64_t image = row / r_.pixels;
    return image * (r_.segments.channels() - 1) * r_.pixels + row;
  }
  // The same at a packed channel of the tile, or -1.
  DCN_DEVICE int64_t plane_index(int64_t row, int64_t first, int channel) const {
    const Run plain = r_.segments.plain(first_channel_ + channel);
    const bool inside = row < r_.rows() && first_channel_ + channel < end_channel_;
    return inside && plain.count > 0 ? first + plain.first * r_.pixels : -1;
  }

  // Calls visit(first row, word, the caller's elements) for the tile's vectors along rows.
  template <typename Visit>
  DCN_DEVICE void for_each_plane_vector(const Visit& visit) {
    constexpr int kRowVectors = Relayout::kRows / kVector;
    const int row = static_cast<int>(threadIdx.x) % kRowVectors * kVector;
    const int64_t first = plane_index(first_row_ + row);
#pragma unroll
    for (int i = 0; i < kWords * kRowVectors; i += kThreads) {
      const int word = (i + static_cast<int>(threadIdx.x)) / kRowVectors;
      if (kThreads > kWords * kRowVectors && word >= kWords) return;
      int64_t at[kPerWord];
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) {
        at[j] = plane_index(first_row_ + row, first, word * kPerWord + j);
      }
      visit(row, word, at);
    }
  }
  // Calls visit(element in the tile, the caller's): neighbouring threads have neighbouring rows.
  template <typename Visit>
  DCN_DEVICE void for_each_element(const Visit& visit) {
    const int row = static_cast<int>(threadIdx.x) % Relayout::kRows;
    const int64_t first = plane_index(first_row_ + row);
#pragma unroll
    for (int i = 0; i < Relayout::kChannels<T>; i += kThreads / Relayout::kRows) {
      const int channel = i + static_cast<int>(threadIdx.x) / Relayout::kRows;
      T* const word = reinterpret_cast<T*>(&word_at(row, channel / kPerWord));
      visit(word[channel % kPerWord], plane_index(first_row_ + row, first, channel));
    }
  }

  const Relayout& r_;
  Word* const words_;
  int64_t first_row_, first_channel_, end_channel_;
};

// A vector along channels in the tile.
template <typename T, int kThreads>
class RelayoutTile<T, kThreads>::Slot {
 public:
  DCN_DEVICE explicit Slot(Word* first) : first_(first) {}
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

// Where rows are in the packed tensor: in order, or, those being [group][channel][tap], at
// [group][tap][packed channel].
struct SameRows {
  DCN_DEVICE int64_t operator()(int64_t row) const { return row; }
};
struct TapRows {
  int64_t taps;
  Segments channels;  // of one group
  DCN_DEVICE int64_t operator()(int64_t row) const {
    const int64_t channel = row / taps, tap = row - channel * taps;
    const int64_t group = channel / channels.channels();
    return (group * taps + tap) * channels.packed_channels() +
           channels.packed(channel - group * channels.channels());
  }
};

// A tile of a tensor to be packed; `round`: to operands of the product.
template <typename T, typename Rows>
DCN_DEVICE void pack_tile(const Relayout& r, unsigned number, const Rows& rows, bool round,
                          const T* plain, T* packed) {
  RelayoutTile<T> tile(r, number);
  if (!r.channels_last) {
    tile.load_planes(plain);
    __syncthreads();
  }
  tile.for_each_vector([&](const auto& slot, int64_t row, int64_t channel) {
    Vector<T> v =
        r.channels_last ? read_run(plain, tile.along_channels(row, channel)) : slot.read();
    if (round) {
#pragma unroll
      for (int e = 0; e < Vector<T>::kSize; ++e) {
        v.lane[e] = Element<T>::operand(Element<T>::load(v.lane[e]));
      }
    }
    store_vector(packed + rows(row) * r.segments.packed_channels() + channel, v);
  });
}

// Without restrict a load would wait for the tile's stores.
template <typename T, typename Rows>
__global__ void __launch_bounds__(Relayout::kThreads)
    pack_kernel(const Relayout r, const Rows rows, bool round, const T* __restrict__ plain,
                T* __restrict__ packed) {
  await_earlier_kernels();
  pack_tile(r, blockIdx.x, rows, round, plain, packed);
}

// Writes, or with `add` adds, the sum of packed tensors of `size` elements, in their order.
template <typename S>
__global__ void __launch_bounds__(Relayout::kThreads)
    sum_parts_kernel(int64_t size, int parts, const S* packed, S* sum, bool add) {
  constexpr int kVector = Vector<S>::kSize;
  await_earlier_kernels();
  const int64_t first = (int64_t{blockIdx.x} * Relayout::kThreads + threadIdx.x) * kVector;
  if (first >= size) return;
  S sums[kVector] = {};
#pragma unroll 4
  for (int part = 0; part < parts; ++part) {
    const Vector<S> v = vector_of<S>(load_vector(packed + part * size + first));
#pragma unroll
    for (int e = 0; e < kVector; ++e) sums[e] += v.lane[e];
  }
  if (add) {
    const Vector<S> v = vector_of<S>(load_vector(sum + first));
#pragma unroll
    for (int e = 0; e < kVector; ++e) sums[e] += v.lane[e];
  }
  store_vector(sum + first, reinterpret_cast<const Vector<S>&>(sums));
}

// The sum of `parts` packed tensors, in their order, and of bias[channel], if any.
template <typename T>
__global__ void __launch_bounds__(Relayout::kThreads)
    unpack_kernel(const Relayout r, int parts, const Sum<T>* __restrict__ packed,
                  const T* __restrict__ bias, T* __restrict__ plain) {
  constexpr int kVector = Vector<T>::kSize, kSumVector = Vector<Sum<T>>::kSize;
  const int64_t channels = r.segments.packed_channels();
  RelayoutTile<T> tile(r);
  await_earlier_kernels();
  tile.for_each_vector([&](const auto& slot, int64_t row, int64_t channel) {
    const Sum<T>* from = packed + row * channels + channel;
    Sum<T> sums[kVector] = {};
#pragma unroll 4
    for (int part = 0; part < parts; ++part, from += r.rows() * channels) {
#pragma unroll
      for (int e = 0; e < kVector; e += kSumVector) {
        const Vector<Sum<T>> v = vector_of<Sum<T>>(load_vector(from + e));
#pragma unroll
        for (int i = 0; i < kSumVector; ++i) sums[e + i] += v.lane[i];
      }
    }
    if (bias) {
      const Vector<T> v = read_run(bias, r.segments.plain(channel));
#pragma unroll
      for (int e = 0; e < kVector; ++e) sums[e] += Element<T>::load(v.lane[e]);
    }
    Vector<T> v;
#pragma unroll
    for (int e = 0; e < kVector; ++e) v.lane[e] = Element<T>::store(sums[e]);
    if (r.channels_last) {
      write_run(plain, tile.along_channels(row, channel), v);
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
    return groups * taps * inputs.packed_channels() * outputs.packed_channels();
  }
  Relayout backward() const { return {outputs, groups, inputs.channels() * taps, false}; }
  TapRows backward_rows() const { return {taps, inputs}; }
};

}  // namespace cuda
}  // namespace dcn

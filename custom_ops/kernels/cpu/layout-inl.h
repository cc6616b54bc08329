// Moving tensors between their layout in memory and the compute type's tiles.
#pragma once

#include "half-inl.h"

namespace dcn {
namespace cpu {
namespace DCN_ISA {

template <typename T>
constexpr DataType kDataType = sizeof(T) == 8   ? DataType::kFloat64
                               : sizeof(T) == 4 ? DataType::kFloat32
                                                : DataType::kBFloat16;

DCN_INLINE int64_t element_size(DataType dtype) {
  return dtype == DataType::kFloat64 ? 8 : dtype == DataType::kFloat32 ? 4 : 2;
}
DCN_INLINE const void* element(const void* data, DataType dtype, int64_t index) {
  return static_cast<const char*>(data) + index * element_size(dtype);
}
DCN_INLINE void* element(void* data, DataType dtype, int64_t index) {
  return static_cast<char*>(data) + index * element_size(dtype);
}

// The `count` elements from `index` on in the compute type: in place where that is how they are
// stored, else converted into `converted`.
template <typename T>
const T* read_row(const void* data, DataType dtype, int64_t index, int64_t count, T* converted) {
  const void* row = element(data, dtype, index);
  if (dtype == kDataType<T>) return static_cast<const T*>(row);
  switch (dtype) {
    case DataType::kFloat16:
      for (int64_t i = 0; i < count; ++i) {
        converted[i] = static_cast<T>(to_float(static_cast<const Float16*>(row)[i]));
      }
      break;
    case DataType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) {
        converted[i] = static_cast<T>(to_float(static_cast<const BFloat16*>(row)[i]));
      }
      break;
    case DataType::kFloat32:
      for (int64_t i = 0; i < count; ++i) {
        converted[i] = static_cast<T>(static_cast<const float*>(row)[i]);
      }
      break;
    case DataType::kFloat64:
      for (int64_t i = 0; i < count; ++i) {
        converted[i] = static_cast<T>(static_cast<const double*>(row)[i]);
      }
      break;
  }
  return converted;
}

template <typename T>
void write_row(const T* row, int64_t count, void* data, DataType dtype, int64_t index) {
  void* target = element(data, dtype, index);
  switch (dtype) {
    case DataType::kFloat16:
      for (int64_t i = 0; i < count; ++i) {
        static_cast<Float16*>(target)[i] = to_float16(static_cast<float>(row[i]));
      }
      break;
    case DataType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) {
        static_cast<BFloat16*>(target)[i] = to_bfloat16(static_cast<float>(row[i]));
      }
      break;
    case DataType::kFloat32:
      for (int64_t i = 0; i < count; ++i) {
        static_cast<float*>(target)[i] = static_cast<float>(row[i]);
      }
      break;
    case DataType::kFloat64:
      for (int64_t i = 0; i < count; ++i) {
        static_cast<double*>(target)[i] = static_cast<double>(row[i]);
      }
      break;
  }
}

// target[j * target_stride + i] = source(i)[j], i < rows, j < columns. `source` gives row pointers.
// Blocks are one cache line long on the side that a power-of-two stride maps to few cache sets.
template <int kRowBlock, int kColumnBlock, typename T, typename Source>
DCN_INLINE void transpose(int64_t rows, int64_t columns, Source source, T* target,
                          int64_t target_stride) {
  for (int64_t r0 = 0; r0 < rows; r0 += kRowBlock) {
    const int64_t r1 = r0 + kRowBlock < rows ? r0 + kRowBlock : rows;
    for (int64_t c0 = 0; c0 < columns; c0 += kColumnBlock) {
      const int64_t c1 = c0 + kColumnBlock < columns ? c0 + kColumnBlock : columns;
      int64_t r = r0;
      for (; r + 4 <= r1; r += 4) {
        const T *s0 = source(r), *s1 = source(r + 1), *s2 = source(r + 2), *s3 = source(r + 3);
        int64_t c = c0;
        for (; c + 4 <= c1; c += 4) {
          T* t = target + c * target_stride + r;
          transpose4x4(s0 + c, s1 + c, s2 + c, s3 + c, t, t + target_stride, t + 2 * target_stride,
                       t + 3 * target_stride);
        }
        for (; c < c1; ++c) {
          T* t = target + c * target_stride + r;
          t[0] = s0[c];
          t[1] = s1[c];
          t[2] = s2[c];
          t[3] = s3[c];
        }
      }
      for (; r < r1; ++r) {
        const T* s = source(r);
        for (int64_t c = c0; c < c1; ++c) target[c * target_stride + r] = s[c];
      }
    }
  }
}

// Pixels that are moved between layouts at a time.
constexpr int64_t kPixelBlock = 64;

// Channels [channel, channel + channels) of `pixels` <= kPixelBlock pixels of one image, from x's
// own layout to target[pixel][channel].
template <typename T>
void to_channels_last(const Problem& p, const void* x, int64_t image, int64_t channel,
                      int64_t channels, int64_t pixel, int64_t pixels, T* target) {
  if (p.channels_last) {
    for (int64_t i = 0; i < pixels; ++i) {
      T* row = target + i * channels;
      const int64_t index = (image * p.in_pixels() + pixel + i) * p.channels + channel;
      const T* source = read_row(x, p.dtype, index, channels, row);
      if (source != row) __builtin_memcpy(row, source, channels * sizeof(T));
    }
    return;
  }
  constexpr int64_t kChannelBlock = 8;
  T converted[kChannelBlock][kPixelBlock];
  for (int64_t c = 0; c < channels; c += kChannelBlock) {
    const int64_t rows = c + kChannelBlock < channels ? kChannelBlock : channels - c;
    const T* source[kChannelBlock];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t index = (image * p.channels + channel + c + r) * p.in_pixels() + pixel;
      source[r] = read_row(x, p.dtype, index, pixels, converted[r]);
    }
    transpose<kChannelBlock, 16>(
        rows, pixels, [&](int64_t r) { return source[r]; }, target + c, channels);
  }
}

// The same for x and a copy of bfloat16 numbers.
inline void to_channels_last(const Problem& p, const void* x, int64_t image, int64_t channel,
                             int64_t channels, int64_t pixel, int64_t pixels, BFloat16* target) {
  if (p.channels_last) {
    const int64_t index = (image * p.in_pixels() + pixel) * p.channels + channel;
    const BFloat16* source = static_cast<const BFloat16*>(x) + index;
    for (int64_t i = 0; i < pixels; ++i) {
      __builtin_memcpy(target + i * channels, source + i * p.channels, channels * sizeof(BFloat16));
    }
    return;
  }
  constexpr int64_t kChannelBlock = 16;
  float rows[kChannelBlock][kPixelBlock], transposed[kPixelBlock][kChannelBlock];
  for (int64_t c = 0; c < channels; c += kChannelBlock) {
    const int64_t width = c + kChannelBlock < channels ? kChannelBlock : channels - c;
    for (int64_t r = 0; r < width; ++r) {
      const int64_t index = (image * p.channels + channel + c + r) * p.in_pixels() + pixel;
      read_row(x, DataType::kBFloat16, index, pixels, rows[r]);
    }
    transpose<kChannelBlock, 16>(
        width, pixels, [&](int64_t r) { return rows[r]; }, transposed[0], kChannelBlock);
    for (int64_t i = 0; i < pixels; ++i) {
      BFloat16* const row = target + i * channels + c;
      for (int64_t r = 0; r < width; ++r) {
        row[r].bits = static_cast<uint16_t>(float_to_bits(transposed[i][r]) >> 16);
      }
    }
  }
}

// The reverse, for `pixels` of a tensor [N, size, per_image] or [N, per_image, size]: source[pixel]
// rows are source_stride apart.
template <typename T>
void from_channels_last(const T* source, int64_t source_stride, int64_t channels, int64_t pixels,
                        bool channels_last, int64_t image, int64_t channel, int64_t all_channels,
                        int64_t pixel, int64_t all_pixels, void* target, DataType dtype) {
  if (channels_last) {
    for (int64_t i = 0; i < pixels; ++i) {
      write_row(source + i * source_stride, channels, target, dtype,
                (image * all_pixels + pixel + i) * all_channels + channel);
    }
    return;
  }
  const int64_t index = (image * all_channels + channel) * all_pixels + pixel;
  if (dtype == kDataType<T>) {
    transpose<16, 8>(
        pixels, channels, [&](int64_t i) { return source + i * source_stride; },
        static_cast<T*>(target) + index, all_pixels);
    return;
  }
  constexpr int64_t kChannelBlock = 8;
  T block[kChannelBlock][kPixelBlock];
  for (int64_t i = 0; i < pixels; i += kPixelBlock) {
    const int64_t part = i + kPixelBlock < pixels ? kPixelBlock : pixels - i;
    for (int64_t c = 0; c < channels; c += kChannelBlock) {
      const int64_t rows = c + kChannelBlock < channels ? kChannelBlock : channels - c;
      transpose<16, 8>(
          part, rows, [&](int64_t r) { return source + (i + r) * source_stride + c; }, block[0],
          kPixelBlock);
      for (int64_t r = 0; r < rows; ++r) {
        write_row(block[r], part, target, dtype, index + (c + r) * all_pixels + i);
      }
    }
  }
}

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

// Moving tensors between their layout in memory and the compute type's tiles.
#pragma once

#include "half-inl.h"

namespace dcn::cpu::DCN_ISA {

DCN_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
DCN_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename T>
constexpr DataType kDataType = std::is_same_v<T, double>     ? DataType::kFloat64
                               : std::is_same_v<T, float>    ? DataType::kFloat32
                               : std::is_same_v<T, BFloat16> ? DataType::kBFloat16
                                                             : DataType::kFloat16;

DCN_INLINE int64_t element_size(DataType dtype) {
  return dtype == DataType::kFloat64 ? 8 : dtype == DataType::kFloat32 ? 4 : 2;
}
DCN_INLINE const void* element(const void* data, DataType dtype, int64_t index) {
  return static_cast<const char*>(data) + index * element_size(dtype);
}
DCN_INLINE void* element(void* data, DataType dtype, int64_t index) {
  return static_cast<char*>(data) + index * element_size(dtype);
}

// f(pointer to `data` of the type it has in memory).
template <typename F>
DCN_INLINE void with_element_type(void* data, DataType dtype, F f) {
  switch (dtype) {
    case DataType::kFloat16:
      return f(static_cast<Float16*>(data));
    case DataType::kBFloat16:
      return f(static_cast<BFloat16*>(data));
    case DataType::kFloat32:
      return f(static_cast<float*>(data));
    case DataType::kFloat64:
      return f(static_cast<double*>(data));
  }
}

// The `count` elements from `index` on in the compute type: in place where that is how they are
// stored, else converted into `converted`.
template <typename T>
const T* read_row(const void* data, DataType dtype, int64_t index, int64_t count, T* converted) {
  const void* const row = element(data, dtype, index);
  if (dtype == kDataType<T>) return static_cast<const T*>(row);
  with_element_type(const_cast<void*>(row), dtype, [&](const auto* source) {
    for (int64_t i = 0; i < count; ++i) converted[i] = static_cast<T>(source[i]);
  });
  return converted;
}

template <typename T>
void write_row(const T* row, int64_t count, void* data, DataType dtype, int64_t index) {
  with_element_type(element(data, dtype, index), dtype, [&](auto* target) {
    using Stored = std::remove_pointer_t<decltype(target)>;
    for (int64_t i = 0; i < count; ++i) target[i] = static_cast<Stored>(row[i]);
  });
}

// The same of elements that are `stride` apart.
template <typename T>
__attribute__((noinline)) void read_strided(const void* data, DataType dtype, int64_t index,
                                            int64_t stride, int64_t count, T* converted) {
  with_element_type(const_cast<void*>(element(data, dtype, index)), dtype, [&](const auto* source) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < count; ++i) converted[i] = static_cast<T>(source[i * stride]);
  });
}
template <typename T>
__attribute__((noinline)) void write_strided(const T* row, int64_t count, void* data,
                                             DataType dtype, int64_t index, int64_t stride) {
  with_element_type(element(data, dtype, index), dtype, [&](auto* target) {
    using Stored = std::remove_pointer_t<decltype(target)>;
#pragma GCC unroll 8
    for (int64_t i = 0; i < count; ++i) target[i * stride] = static_cast<Stored>(row[i]);
  });
}

// Asks for what is read or written next: short rows, far apart, that no processor foresees.
template <bool kWrites = false>
DCN_INLINE void prefetch_row(const void* data, DataType dtype, int64_t index, int64_t count) {
  const char* const row = static_cast<const char*>(element(data, dtype, index));
  for (int64_t i = 0; i < count * element_size(dtype); i += 64) {
    __builtin_prefetch(row + i, kWrites);
  }
}

// target[j * target_stride + i] = source(i)[j], i < rows, j < columns. `source` gives row pointers.
// Blocks are one cache line long on the side that a power-of-two stride maps to few cache sets.
template <int kRowBlock, int kColumnBlock, typename T, typename Source>
DCN_INLINE void transpose(int64_t rows, int64_t columns, Source source, T* target,
                          int64_t target_stride) {
  for (int64_t r0 = 0; r0 < rows; r0 += kRowBlock) {
    const int64_t r1 = smaller(r0 + kRowBlock, rows);
    for (int64_t c0 = 0; c0 < columns; c0 += kColumnBlock) {
      const int64_t c1 = smaller(c0 + kColumnBlock, columns);
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

// The channels [channel, channel + channels) and pixels [pixel, pixel + pixels) of one image.
struct Region {
  int64_t image, channel, channels, pixel, pixels;
};

// A tensor [N, channels, pixels], or [N, pixels, channels]. Void is void or const void.
template <typename Void>
struct ImageTensor {
  Void* data;
  DataType dtype;
  bool channels_last;
  int64_t channels, pixels;

  DCN_INLINE_MEMBER int64_t index(int64_t image, int64_t channel, int64_t pixel) const {
    return channels_last ? (image * pixels + pixel) * channels + channel
                         : (image * channels + channel) * pixels + pixel;
  }
};
template <typename Void>
ImageTensor<Void> like_x(const Problem& p, Void* data) {
  return {data, p.dtype, p.reads_channels_last(), p.channels, p.in_pixels()};
}
template <typename Void>
ImageTensor<Void> like_out(const Problem& p, Void* data) {
  return {data, p.dtype, p.channels_last, p.out_channels, p.out_pixels()};
}

// Up to kPixelBlock pixels of x to target[pixel][channel]; to bfloat16 from bfloat16 only.
template <typename T>
void to_channels_last(const ImageTensor<const void>& x, const Region& r, T* target) {
  if (x.channels_last) {
    const bool whole = r.channels == x.channels;  // then pixels are one row
    const int64_t rows = whole ? 1 : r.pixels, length = whole ? r.pixels * r.channels : r.channels;
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = target + i * length;
      const int64_t index = x.index(r.image, r.channel, r.pixel + i);
      const T* source = read_row(x.data, x.dtype, index, length, row);
      if (source != row) __builtin_memcpy(row, source, length * sizeof(T));
    }
    return;
  }
  constexpr bool kHalf = std::is_same_v<T, BFloat16>;  // which is transposed as float32
  using Number = std::conditional_t<kHalf, float, T>;
  constexpr int64_t kChannelBlock = kHalf ? 16 : 8;
  Number converted[kChannelBlock][kPixelBlock];
  for (int64_t c = 0; c < r.channels; c += kChannelBlock) {
    const int64_t rows = smaller(kChannelBlock, r.channels - c);
    for (int64_t i = c + kChannelBlock; i < smaller(c + 2 * kChannelBlock, r.channels); ++i) {
      prefetch_row(x.data, x.dtype, x.index(r.image, r.channel + i, r.pixel), r.pixels);
    }
    const Number* source[kChannelBlock];
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t index = x.index(r.image, r.channel + c + i, r.pixel);
      source[i] = read_row(x.data, x.dtype, index, r.pixels, converted[i]);
    }
    const auto row = [&](int64_t i) { return source[i]; };
    if constexpr (!kHalf) {
      transpose<kChannelBlock, 16>(rows, r.pixels, row, target + c, r.channels);
    } else {
      Number transposed[kPixelBlock][kChannelBlock];
      transpose<kChannelBlock, 16>(rows, r.pixels, row, transposed[0], kChannelBlock);
      for (int64_t i = 0; i < r.pixels; ++i) {
        for (int64_t j = 0; j < rows; ++j) {
          target[i * r.channels + c + j].bits =
              static_cast<uint16_t>(float_to_bits(transposed[i][j]) >> 16);
        }
      }
    }
  }
}

// The reverse, for any number of pixels: source[pixel] rows are source_stride apart.
template <typename T>
void from_channels_last(const T* source, int64_t source_stride, const Region& r,
                        const ImageTensor<void>& target) {
  if (target.channels_last) {
    for (int64_t i = 0; i < r.pixels; ++i) {
      write_row(source + i * source_stride, r.channels, target.data, target.dtype,
                target.index(r.image, r.channel, r.pixel + i));
    }
    return;
  }
  constexpr int64_t kChannelBlock = 8;
  T block[kChannelBlock][kPixelBlock];
  for (int64_t c = 0; c < r.channels; c += kChannelBlock) {
    const int64_t channels = smaller(kChannelBlock, r.channels - c);
    const int64_t index = target.index(r.image, r.channel + c, r.pixel);
    for (int64_t j = kChannelBlock; j < smaller(2 * kChannelBlock, r.channels - c); ++j) {
      prefetch_row<true>(target.data, target.dtype, index + j * target.pixels, r.pixels);
    }
    const T* const from = source + c;
    if (target.dtype == kDataType<T>) {
      transpose<16, kChannelBlock>(
          r.pixels, channels, [&](int64_t i) { return from + i * source_stride; },
          static_cast<T*>(target.data) + index, target.pixels);
      continue;
    }
    for (int64_t i = 0; i < r.pixels; i += kPixelBlock) {
      const int64_t pixels = smaller(kPixelBlock, r.pixels - i);
      transpose<16, kChannelBlock>(
          pixels, channels, [&](int64_t j) { return from + (i + j) * source_stride; }, block[0],
          kPixelBlock);
      for (int64_t j = 0; j < channels; ++j) {
        write_row(block[j], pixels, target.data, target.dtype, index + j * target.pixels + i);
      }
    }
  }
}

}  // namespace dcn::cpu::DCN_ISA

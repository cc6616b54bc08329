// C += A * B on bfloat16 numbers with sums in float32: AMX, or AVX512-BF16 where DCN_AMX is not
// defined.
//
// A float32 value is the sum of three bfloat16 numbers, each of which holds the next 8 bits. Of the
// nine products of two values' terms the three smallest are below float32's accuracy and left out.
// On AMX, 16 times as fast as float32 vectors, the other six pay.
#pragma once

#include "gemm-inl.h"

namespace dcn::cpu::DCN_ISA {

// 32 values, as the two vectors in which a product's operands are sampled.
struct Pair {
  Vector<float, 16> first, second;
};
DCN_INLINE Pair operator*(float a, Pair b) { return {a * b.first, a * b.second}; }
DCN_INLINE Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }

// The first 16 values and the others, or, of bfloat16, those at even and those at odd places.
DCN_INLINE Pair load_pair(const float* p) { return {load<16>(p), load<16>(p + 16)}; }
DCN_INLINE Pair load_pair(const BFloat16* p) {
  const auto bits = bit_cast<Vector<uint32_t, 16>>(load<32>(reinterpret_cast<const uint16_t*>(p)));
  return {bit_cast<Vector<float, 16>>(bits << 16), bit_cast<Vector<float, 16>>(bits & 0xffff0000u)};
}

// The nearest bfloat16 numbers to 32 values.
DCN_INLINE Vector<uint16_t, 32> narrow(Pair v) { return narrow_lanes(v.first, v.second); }
// The same, with the first 16 values at even places.
DCN_INLINE Vector<uint16_t, 32> narrow_mixed(Pair v) {
  const Vector<uint16_t, 32> order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return permute_lanes(narrow(v), order);
}
template <int kLanes>
DCN_INLINE Vector<uint16_t, kLanes> narrow(Vector<float, kLanes> v) {
  if constexpr (kLanes == 16 || kLanes == 8) {
    return narrow_lanes<kLanes>(v);
  } else {
    Vector<uint16_t, kLanes> result;
    for (int i = 0; i < kLanes; ++i) result[i] = BFloat16(v[i]).bits;
    return result;
  }
}

// Takes the first term of every value away from it.
template <int kLanes>
DCN_INLINE Vector<float, kLanes> take_term(Vector<float, kLanes>& v) {
  const auto bits = (bit_cast<Vector<uint32_t, kLanes>>(v) + 0x8000u) & 0xffff0000u;
  const auto term = bit_cast<Vector<float, kLanes>>(bits);
  v -= term;
  return term;
}
template <int kLanes>
DCN_INLINE Pair take_term(Pair& v) {
  const auto first = take_term<16>(v.first);
  return {first, take_term<16>(v.second)};
}

// A left operand: term i of element (row, k) stands at data[i * term_stride + row * row_stride +
// k].
struct SplitMatrix {
  const BFloat16* data;
  int64_t row_stride, term_stride;
};

// A right operand is packed in panels of 32 columns, the last one perhaps of 16. A panel is
// [depth / 32][term][16 columns at a time][16 pairs of rows][column][row of the pair]: the order in
// which both instruction sets want it.
constexpr int64_t kPairs = 16;  // of rows in a block
constexpr int64_t kBlockColumns = 16;
constexpr int64_t kBlock = 2 * kPairs * kBlockColumns;  // elements

// Packs `depth` rows of `width` = 16 or 32 columns, zeros behind the last row.
template <int kTerms>
void pack_split(int64_t depth, int64_t width, const float* source, int64_t stride,
                BFloat16* packed) {
  for (int64_t k = 0; k < depth; k += 2 * kPairs) {
    for (int64_t column = 0; column < width; column += kBlockColumns) {
      BFloat16* const block = packed + kTerms * k * width + column * 2 * kPairs;
      for (int64_t i = 0; i < kPairs; ++i) {
        const float* row = source + (k + 2 * i) * stride + column;
        Pair rows{};
        if (k + 2 * i < depth) rows.first = load<16>(row);
        if (k + 2 * i + 1 < depth) rows.second = load<16>(row + stride);
        auto* target = reinterpret_cast<uint32_t*>(block) + i * kBlockColumns;
        for (int term = 0; term + 1 < kTerms; ++term) {
          const Pair high = take_term<32>(rows);
          store<16>(target, bit_cast<Vector<uint32_t, 16>>(high.first) >> 16 |
                                bit_cast<Vector<uint32_t, 16>>(high.second));
          target += kPairs * width;
        }
        store<32>(reinterpret_cast<uint16_t*>(target), narrow_mixed(rows));
      }
    }
  }
}

#ifdef DCN_AMX

// Tiles 0 to 3 are sums, [row block][column block]; 4 and 5 left, 6 and 7 right operands.
DCN_INLINE void set_tile_rows(int64_t upper, int64_t lower) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    const bool is_lower = i == 2 || i == 3 || i == 5;
    shapes.rows[i] = static_cast<uint8_t>(i > 5 ? kPairs : is_lower ? lower : upper);
    shapes.column_bytes[i] = shapes.rows[i] > 0 ? 64 : 0;
  }
  set_tile_shapes(shapes);
}

// One or two blocks of 16 rows times one or two of 16 columns; strides in bytes.
template <int kTerms, int kRowBlocks, int kColumnBlocks>
__attribute__((noinline)) void multiply_tiles(const BFloat16* a, int64_t row_stride,
                                              int64_t term_stride, const BFloat16* b, float* c,
                                              int64_t c_stride, int64_t depth) {
  char* const c0 = reinterpret_cast<char*>(c);
  char* const c1 = c0 + 16 * c_stride;
  load_tile<0>(c0, c_stride);
  if (kColumnBlocks > 1) load_tile<1>(c0 + 64, c_stride);
  if (kRowBlocks > 1) load_tile<2>(c1, c_stride);
  if (kRowBlocks > 1 && kColumnBlocks > 1) load_tile<3>(c1 + 64, c_stride);
  const char* left = reinterpret_cast<const char*>(a);
  const auto load_left = [&](int term) __attribute__((always_inline)) {
    const char* const data = left + term * term_stride;
    load_tile<4>(data, row_stride);
    if (kRowBlocks > 1) load_tile<5>(data + 16 * row_stride, row_stride);
  };
  const auto load_right = [&](int term) __attribute__((always_inline)) {
    const BFloat16* const data = b + term * kColumnBlocks * kBlock;
    load_tile<6>(data, 64);
    if (kColumnBlocks > 1) load_tile<7>(data + kBlock, 64);
  };
  const auto multiply = []() __attribute__((always_inline)) {
    multiply_tile<0, 4, 6>();
    if (kRowBlocks > 1) multiply_tile<2, 5, 6>();
    if (kColumnBlocks > 1) multiply_tile<1, 4, 7>();
    if (kRowBlocks > 1 && kColumnBlocks > 1) multiply_tile<3, 5, 7>();
  };
  for (int64_t k = 0; k < depth; k += 2 * kPairs) {
    // Every pair of terms i, j with i + j < kTerms, in an order that loads one operand a step.
    load_left(0);
    if constexpr (kTerms == 3) {
      load_right(2);
      multiply();
      load_right(1);
      multiply();
      load_left(1);
      multiply();
    }
    load_right(0);
    multiply();
    if constexpr (kTerms == 3) {
      load_left(2);
      multiply();
      load_left(0);
      multiply();
    }
    left += 4 * kPairs;
    b += kTerms * kColumnBlocks * kBlock;
  }
  store_tile<0>(c0, c_stride);
  if (kColumnBlocks > 1) store_tile<1>(c0 + 64, c_stride);
  if (kRowBlocks > 1) store_tile<2>(c1, c_stride);
  if (kRowBlocks > 1 && kColumnBlocks > 1) store_tile<3>(c1 + 64, c_stride);
}

struct TileScope {
  ~TileScope() { release_tiles(); }
};

template <int kTerms>
void multiply_split(int64_t rows, int64_t columns, int64_t depth, SplitMatrix a, Panels<BFloat16> b,
                    Rows<float> c) {
  const auto multiply_rows = [&](auto row_blocks, int64_t begin, int64_t end) {
    constexpr int kRowBlocks = decltype(row_blocks)::value;
    for (int64_t column = 0; column < columns; column += 2 * kBlockColumns) {
      const bool whole = column + kBlockColumns < columns;
      const BFloat16* const panel =
          b.data + kTerms * (column * b.depth + b.first * kBlockColumns * (whole ? 2 : 1));
      const auto kernel =
          whole ? multiply_tiles<kTerms, kRowBlocks, 2> : multiply_tiles<kTerms, kRowBlocks, 1>;
      for (int64_t row = begin; row < end; row += 32) {
        kernel(a.data + row * a.row_stride, a.row_stride * 2, a.term_stride * 2, panel,
               c.data + row * c.stride + column, c.stride * 4, depth);
      }
    }
  };
  const int64_t full = rows / 32 * 32, rest = rows - full;
  if (full > 0) {
    set_tile_rows(16, 16);
    multiply_rows(Constant<2>(), 0, full);
  }
  if (rest > 16) {
    set_tile_rows(16, rest - 16);
    multiply_rows(Constant<2>(), full, rows);
  } else if (rest > 0) {
    set_tile_rows(rest, 0);
    multiply_rows(Constant<1>(), full, rows);
  }
}

#else

struct TileScope {};

// As multiply_block in gemm-inl.h, on pairs of rows.
template <int kRows, int kVectors>
__attribute__((noinline)) void multiply_pairs(const BFloat16* a, int64_t row_stride,
                                              const BFloat16* b, float* c, int64_t c_stride,
                                              int64_t depth) {
  constexpr int kLanes = 16;
  Vector<float, kLanes> sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sum[r][v] = load<kLanes>(c + r * c_stride + v * kLanes);
  }
  constexpr int kPointers = (kRows + 2) / 3;  // see multiply_block
  const BFloat16* pointers[kPointers];
  for (int i = 0; i < kPointers; ++i) pointers[i] = a + 3 * i * row_stride;
  for (int64_t k = 0; k < depth; k += 2 * kPairs) {
    for (int64_t i = 0; i < kPairs; ++i) {
      Vector<uint32_t, kLanes> right[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        right[v] =
            load<kLanes>(reinterpret_cast<const uint32_t*>(b + v * kBlock + i * 2 * kBlockColumns));
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        uint32_t pair;
        __builtin_memcpy(&pair, pointers[r / 3] + (r % 3) * row_stride, sizeof(pair));
        const Vector<uint32_t, kLanes> left = Vector<uint32_t, kLanes>{} + pair;
        for (int v = 0; v < kVectors; ++v) {
          add_pair_products(sum[r][v], left, right[v]);
        }
      }
      for (int p = 0; p < kPointers; ++p) pointers[p] += 2;
    }
    b += kVectors * kBlock;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store<kLanes>(c + r * c_stride + v * kLanes, sum[r][v]);
  }
}

template <int kTerms>
void multiply_split(int64_t rows, int64_t columns, int64_t depth, SplitMatrix a, Panels<BFloat16> b,
                    Rows<float> c) {
  static_assert(kTerms == 1, "more terms are slower than float32 vectors");
  for_panels<float>(columns, [&](auto vectors, int64_t column) {
    constexpr int kVectors = decltype(vectors)::value;
    const BFloat16* const panel = b.data + column * b.depth + b.first * kVectors * kBlockColumns;
    for_row_blocks<kMaxRows>(rows, [&](auto block, int64_t row) {
      multiply_pairs<decltype(block)::value, kVectors>(a.data + row * a.row_stride, a.row_stride,
                                                       panel, c.data + row * c.stride + column,
                                                       c.stride, depth);
    });
  });
}

#endif

// See VectorProduct.
template <int terms, typename T>
struct SplitProduct {
  static_assert(terms == 1 || terms == 3, "bfloat16 or float32");
  using Value = float;
  using Pixel = T;
  using Element = BFloat16;
  using Left = SplitMatrix;
  using Right = Panels<BFloat16>;
  static constexpr bool kSplits = true;
  static constexpr int kTerms = terms;
  static constexpr int64_t kDepthStep = 2 * kPairs;
  static constexpr int64_t kColumnStep = kBlockColumns;
  static constexpr int64_t kPanel = 2 * kBlockColumns;
  static constexpr int64_t kRows = 32;
  static constexpr int64_t kRowStep = 16;
  static constexpr int kSampleLanes = 32;

  using Scope = TileScope;

  static Left left(const BFloat16* data, int64_t row_stride, int64_t term_stride) {
    return {data, row_stride, term_stride};
  }
  static void pack(int64_t depth, int64_t width, const float* source, int64_t stride,
                   BFloat16* packed) {
    pack_split<kTerms>(depth, width, source, stride, packed);
  }

  template <int kLanes>
  static DCN_INLINE_MEMBER auto load(const T* p) {
    if constexpr (kLanes == 32) {
      return load_pair(p);
    } else {
      return load_value<kLanes>(p);
    }
  }
  // `v` is a sum of what load() gave.
  template <int kLanes, typename V>
  static DCN_INLINE_MEMBER void store_terms(BFloat16* target, int64_t term_stride, V v) {
    for (int i = 0; i + 1 < kTerms; ++i) {
      store_term<kLanes>(target, take_term<kLanes>(v));
      target += term_stride;
    }
    store_term<kLanes>(target, v);
  }

  static void multiply(int64_t rows, int64_t columns, int64_t depth, Left a, Right b,
                       Rows<float> c) {
    multiply_split<kTerms>(rows, columns, depth, a, b, c);
  }

 private:
  template <int kLanes, typename V>
  static DCN_INLINE_MEMBER void store_term(BFloat16* target, V v) {
    auto* const bits = reinterpret_cast<uint16_t*>(target);
    if constexpr (kLanes < 32) {
      store<kLanes>(bits, narrow<kLanes>(v));
    } else if constexpr (std::is_same_v<Pixel, BFloat16>) {
      store<32>(bits, narrow_mixed(v));
    } else {
      store<32>(bits, narrow(v));
    }
  }
};

}  // namespace dcn::cpu::DCN_ISA

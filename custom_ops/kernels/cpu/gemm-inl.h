// C += A * B on small tiles, on vectors.
#pragma once

#include "half-inl.h"

namespace dcn::cpu::DCN_ISA {

// Registers: kRows x kVectors accumulators, kVectors of B and one broadcast of A.
#if DCN_VECTOR_BYTES == 64
constexpr int kMaxRows = 12;
#else
constexpr int kMaxRows = 6;
#endif
constexpr int kPanelVectors = 2;

// c[r][v] += sum over k of a[r * row_stride + k * depth_stride] * b[k][v], v over kVectors vectors.
// Sums run over k in order, whatever kRows is, so results do not depend on how rows are tiled.
template <int kRows, int kVectors, typename T>
__attribute__((noinline)) void multiply_block(const T* a, int64_t row_stride, int64_t depth_stride,
                                              const T* b, int64_t b_stride, T* c, int64_t c_stride,
                                              int64_t depth) {
  constexpr int kLanes = kVectorLanes<T>;
  Vector<T, kLanes> sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sum[r][v] = load<kLanes>(c + r * c_stride + v * kLanes);
  }
  // One pointer serves three rows (x86 addresses base, base + i, base + 2 * i at no cost): a
  // pointer a row would not fit into the general registers.
  constexpr int kPointers = (kRows + 2) / 3;
  const int64_t row_bytes = row_stride * static_cast<int64_t>(sizeof(T));
  const char* pointers[kPointers];
  for (int i = 0; i < kPointers; ++i) {
    pointers[i] = reinterpret_cast<const char*>(a) + 3 * i * row_bytes;
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T, kLanes> right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = load<kLanes>(b + v * kLanes);
    b += b_stride;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T left = *reinterpret_cast<const T*>(pointers[r / 3] + (r % 3) * row_bytes);
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
    for (int i = 0; i < kPointers; ++i)
      pointers[i] += depth_stride * static_cast<int64_t>(sizeof(T));
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store<kLanes>(c + r * c_stride + v * kLanes, sum[r][v]);
  }
}

// A left operand: element (row, k) stands at data[row * row_stride + k * depth_stride].
template <typename T>
struct LeftMatrix {
  const T* data;
  int64_t row_stride, depth_stride;
};

// Rows that stand `stride` elements apart.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
};

// A right operand of `depth` rows, packed in panels of columns; a product takes the rows from
// `first` on. Rows of fewer than a panel's columns may follow each other without padding, on
// vectors only: what is in the other lanes ends in columns that nobody reads.
template <typename Element>
struct Panels {
  const Element* data;
  int64_t depth, first;
  int64_t columns = INT64_MAX;
};

// Calls f(Constant<n>, row) for blocks of n = kRows rows, then for one of the rows that are left.
template <int kRows, typename F>
DCN_INLINE void for_row_blocks(int64_t rows, F f, int64_t row = 0) {
  for (; row + kRows <= rows; row += kRows) f(Constant<kRows>(), row);
  if constexpr (kRows > 1) {
    if (row < rows) for_row_blocks<kRows - 1>(rows, f, row);
  }
}

// Runs f(Constant<kVectors>, column) for each panel of `columns`, a multiple of the vector length.
template <typename T, typename F>
DCN_INLINE void for_panels(int64_t columns, F f) {
  constexpr int64_t kPanel = kPanelVectors * kVectorLanes<T>;
  int64_t column = 0;
  for (; column + kPanel <= columns; column += kPanel) f(Constant<kPanelVectors>(), column);
  if (column < columns) f(Constant<1>(), column);
}

// One panel of b times all rows of a.
template <int kVectors, typename T>
void multiply_panel(int64_t rows, int64_t depth, LeftMatrix<T> a, Rows<const T> b, Rows<T> c) {
  for_row_blocks<kMaxRows>(rows, [&](auto block, int64_t row) {
    multiply_block<decltype(block)::value, kVectors>(a.data + row * a.row_stride, a.row_stride,
                                                     a.depth_stride, b.data, b.stride,
                                                     c.data + row * c.stride, c.stride, depth);
  });
}

// c[rows][columns] += a[rows][depth] * b[depth][columns].
template <typename T>
void multiply(int64_t rows, int64_t columns, int64_t depth, LeftMatrix<T> a, Rows<const T> b,
              Rows<T> c) {
  for_panels<T>(columns, [&](auto vectors, int64_t column) {
    multiply_panel<decltype(vectors)::value, T>(rows, depth, a, {b.data + column, b.stride},
                                                {c.data + column, c.stride});
  });
}

// Products on vectors of the type that everything is computed in. A product, here and in
// split-inl.h, says what its operands are made of and multiplies them:
//
//   Value          of sums and of what is sampled
//   Pixel          of the channels-last copy of x
//   Element        of the operands, each value as kTerms of them
//   kDepthStep     depths are padded to multiples of it, with zeros in both operands
//   kColumnStep    columns of a right operand are padded to multiples of it
//   kPanel         columns of a right operand that stand together, [depth][column] or alike
//   kRows          rows that are multiplied at a time; a multiple of kRowStep costs no more
//   kSampleLanes   channels that are sampled at a time
//   Left, Right    how the operands are stored
//   multiply       c[rows][columns] += a[rows][depth] * b[depth][columns]
template <typename T>
struct VectorProduct {
  using Value = T;
  using Pixel = T;
  using Element = T;
  using Left = LeftMatrix<T>;
  using Right = Panels<T>;
  static constexpr bool kSplits = false;
  static constexpr int kTerms = 1;
  static constexpr int64_t kDepthStep = 1;
  static constexpr int64_t kColumnStep = kVectorLanes<T>;
  static constexpr int64_t kPanel = kPanelVectors * kVectorLanes<T>;
  static constexpr int64_t kRows = kMaxRows;
  static constexpr int64_t kRowStep = kMaxRows / 3;
  static constexpr int kSampleLanes = kVectorLanes<T>;

  struct Scope {};  // what a thread holds while it multiplies

  static Left left(const T* data, int64_t row_stride, int64_t) { return {data, row_stride, 1}; }

  template <int kLanes, typename P>
  static DCN_INLINE_MEMBER auto load(const P* p) {
    return load_value<kLanes>(p);
  }
  template <int kLanes>
  static DCN_INLINE_MEMBER void store_terms(T* target, int64_t, Vector<T, kLanes> v) {
    store<kLanes>(target, v);
  }

  static void multiply(int64_t rows, int64_t columns, int64_t depth, Left a, Right b, Rows<T> c) {
    for_panels<T>(columns, [&](auto vectors, int64_t column) {
      constexpr int64_t kWidth = decltype(vectors)::value * kVectorLanes<T>;
      const int64_t stride = b.columns < kWidth ? b.columns : kWidth;
      const T* const panel = b.data + column * b.depth + b.first * stride;
      multiply_panel<decltype(vectors)::value, T>(rows, depth, a, {panel, stride},
                                                  {c.data + column, c.stride});
    });
  }
};

}  // namespace dcn::cpu::DCN_ISA

// The block's matrix product: rows x columns += A * B over one staged slice of the reduction.
//
// Both operands lie in shared memory, either reduction-contiguous (one row per row or column of
// the result, kDepth elements and padding each) or reduction-strided (one row per step of the
// reduction). TensorProduct keeps the sums in mma.sync fragments, ScalarProduct in registers.
//
// TensorProduct multiplies float32 as TF32 in three parts. With v = high + low, high being v
// rounded to 11 significant bits and low the rest, of 12 bits at most,
//   a * b = a.low * b.high + a.high * b.low + a.high * b.high
// but for a.low * b.low, about 2^-24 of it. Since mma.sync truncates its sums, each has two vectors
// of the reduction only, and float32 additions join them. What has no such parts, infinities,
// NaN and what rounds to infinity, makes sums that are not finite; repeat() then has them made
// anew by float32 multiplications and additions. Chips without TF32 make all sums so. TF32 ends
// where float32 does, so the low part of a value below about 1e-34 is lost, and that of a result
// below about 1e-31: an operand or result without larger values is as accurate as TF32.
#pragma once

#include <type_traits>

#include "device.cuh"

namespace dcn {
namespace cuda {

// What both products have in common: 64 bytes of the reduction per slice, padded rows.
template <typename T>
struct Slice {
  static constexpr int kVectors = 4;
  static constexpr int kDepth = kVectors * Vector<T>::kSize;
  // Rows of 80 bytes put any eight consecutive ones on distinct banks.
  static constexpr int kContiguousStride = kDepth + Vector<T>::kSize;
  // For a strided tile of so many columns. 4-byte fragments are read one by one and want their
  // four rows eight banks apart, ldmatrix wants its eight rows four apart.
  template <int kColumns>
  static constexpr int kStridedStride = kColumns + (sizeof(T) == 4 ? 8 : Vector<T>::kSize);
};

// Warps in a kWarpRows x kWarpColumns grid, each owning kTileRows x kTileColumns tiles of 16 x 8.
template <typename T, int kWarpRows, int kWarpColumns, int kTileRows, int kTileColumns,
          int kBlocksPerProcessor>
class TensorProduct {
 public:
  static constexpr int kThreads = 32 * kWarpRows * kWarpColumns;
  static constexpr int kRows = kWarpRows * kTileRows * 16;
  static constexpr int kColumns = kWarpColumns * kTileColumns * 8;
  static constexpr int kMinBlocks = kBlocksPerProcessor;

  DCN_DEVICE TensorProduct() : exact_(kSplit && kExactOnly) { clear(); }

  // By the whole block, when its sums are made: whether they have to be made again, from 0.
  DCN_DEVICE bool repeat() {
    if constexpr (kSplit && !kExactOnly) {
      if (!exact_) {
        float zeros = 0;
        for_each([&](int, int, float sum) { zeros += 0 * sum; });
        exact_ = __syncthreads_or(zeros != 0);  // as NaN is
        if (exact_) clear();
        return exact_;
      }
      exact_ = false;
    }
    return false;
  }

  DCN_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTileColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums_[i][j][e] = 0;
      }
    }
  }

  DCN_DEVICE void add_contiguous(const T* a, const T* b) {
    constexpr int kStride = Slice<T>::kContiguousStride;
    constexpr int kVector = Vector<T>::kSize;
    if (kSplit && exact_) {
      add_exactly([=](int row, int k) { return a[row * kStride + k]; },
                  [=](int column, int k) { return b[column * kStride + k]; });
      return;
    }
    a += (first_row() + lane() % 16) * kStride + lane() / 16 * kVector;
    b += (first_column() + lane() % 8 + lane() / 16 * 8) * kStride + lane() / 8 % 2 * kVector;
#pragma unroll
    for (int k = 0; k < Slice<T>::kDepth; k += kStep) {
      Left left[kTileRows];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
        uint32_t fragment[4];
        load_matrices<false>(fragment, a + i * 16 * kStride + k);
        left[i] = Left(fragment);
      }
#pragma unroll
      for (int j = 0; j < kTileColumns; j += 2) {
        uint32_t pair[4];
        load_matrices<false>(pair, b + j * 8 * kStride + k);
        add_pair(left, pair, j);
      }
    }
  }

  DCN_DEVICE void add_strided(const T* a, const T* b) {
    constexpr int kStrideA = Slice<T>::template kStridedStride<kRows>;
    constexpr int kStrideB = Slice<T>::template kStridedStride<kColumns>;
    if (kSplit && exact_) {
      add_exactly([=](int row, int k) { return a[k * kStrideA + row]; },
                  [=](int column, int k) { return b[k * kStrideB + column]; });
      return;
    }
#pragma unroll
    for (int k = 0; k < Slice<T>::kDepth; k += kStep) {
      Left left[kTileRows];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
        uint32_t fragment[4];
        load_strided(fragment, a + k * kStrideA + first_row() + i * 16, kStrideA, true);
        left[i] = Left(fragment);
      }
#pragma unroll
      for (int j = 0; j < kTileColumns; j += 2) {
        uint32_t pair[4];
        load_strided(pair, b + k * kStrideB + first_column() + j * 8, kStrideB, false);
        add_pair(left, pair, j);
      }
    }
  }

  // Calls visit(row, column, sum) for the elements this thread holds.
  template <typename Visit>
  DCN_DEVICE void for_each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTileColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          visit(row(i, e / 2), column(j, e % 2), sums_[i][j][e]);
        }
      }
    }
  }

 private:
  static constexpr bool kSplit = std::is_same<T, float>::value;
#ifdef DCN_VOLTA
  static constexpr bool kExactOnly = true;
#else
  static constexpr bool kExactOnly = false;
#endif
  static constexpr int kStep = 2 * Vector<T>::kSize;  // of the reduction per mma.sync
  static_assert(kTileColumns % 2 == 0, "B fragments are loaded for two tiles at a time");

  static DCN_DEVICE int lane() { return threadIdx.x % 32; }
  static DCN_DEVICE int first_row() {
    return static_cast<int>(threadIdx.x) / 32 / kWarpColumns * (kTileRows * 16);
  }
  static DCN_DEVICE int first_column() {
    return static_cast<int>(threadIdx.x) / 32 % kWarpColumns * (kTileColumns * 8);
  }

  // The four 8 x 8 blocks of a 16-wide operand: A's fragments go down its rows first, the two
  // tiles of B along the reduction first.
  static DCN_DEVICE void load_strided(uint32_t (&r)[4], const T* tile, int stride, bool is_a) {
    if (sizeof(T) == 2) {
      const int along = lane() / 8 % 2, across = lane() / 16;
      const int depth = is_a ? across : along, offset = is_a ? along : across;
      load_matrices<true>(r, tile + (depth * 8 + lane() % 8) * stride + offset * 8);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int depth = is_a ? e / 2 : e % 2, offset = is_a ? e % 2 : e / 2;
        r[e] = reinterpret_cast<const uint32_t&>(
            tile[(depth * 4 + lane() % 4) * stride + offset * 8 + lane() / 4]);
      }
    }
  }

  // The rows and columns of this thread's elements, h = 0 or 1.
  static DCN_DEVICE int row(int i, int h) { return first_row() + i * 16 + lane() / 4 + h * 8; }
  static DCN_DEVICE int column(int j, int h) { return first_column() + j * 8 + lane() % 4 * 2 + h; }

  // An operand's fragment, in two parts if kSplit.
  template <int kRegisters>
  struct Fragment {
    uint32_t high[kRegisters], low[kSplit ? kRegisters : 1];

    DCN_DEVICE Fragment() {}
    DCN_DEVICE explicit Fragment(const uint32_t (&r)[kRegisters]) : Fragment(r, 0) {}
    template <int kSize>
    DCN_DEVICE Fragment(const uint32_t (&r)[kSize], int first) {
#pragma unroll
      for (int i = 0; i < kRegisters; ++i) {
        const uint32_t bits = r[first + i];
        high[i] = bits;
        if constexpr (kSplit) {
          high[i] = (bits + 0x1000) & ~0x1fffu;
          const float rest =
              reinterpret_cast<const float&>(bits) - reinterpret_cast<const float&>(high[i]);
          low[i] = reinterpret_cast<const uint32_t&>(rest);
        }
      }
    }
  };
  using Left = Fragment<4>;

  DCN_DEVICE void add_pair(const Left (&left)[kTileRows], const uint32_t (&pair)[4], int j) {
    const Fragment<2> right[2] = {Fragment<2>(pair, 0), Fragment<2>(pair, 2)};
    if constexpr (kSplit) {
      constexpr TensorType kType = TensorType::kTensorFloat32;
      float sums[kTileRows][2][4] = {};
#pragma unroll
      for (int part = 0; part < 3; ++part) {
#pragma unroll
        for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            multiply_fragments<kType>(sums[i][h], part == 0 ? left[i].low : left[i].high,
                                      part == 1 ? right[h].low : right[h].high);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums_[i][j + h][e] += sums[i][h][e];
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          multiply_fragments<Element<T>::kTensorType>(sums_[i][j + h], left[i].high, right[h].high);
        }
      }
    }
  }

  template <typename A, typename B>
  DCN_DEVICE void add_exactly(const A& a, const B& b) {
    if constexpr (kSplit) {
#pragma unroll 1
      for (int k = 0; k < Slice<T>::kDepth; ++k) {
        float left[kTileRows][2], right[kTileColumns][2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < kTileRows; ++i) left[i][h] = a(row(i, h), k);
#pragma unroll
          for (int j = 0; j < kTileColumns; ++j) right[j][h] = b(column(j, h), k);
        }
#pragma unroll
        for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
          for (int j = 0; j < kTileColumns; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums_[i][j][e] += left[i][e / 2] * right[j][e % 2];
          }
        }
      }
    }
  }

  bool exact_;  // whether the sums are made without tensor cores
  float sums_[kTileRows][kTileColumns][4];
};

// Threads in a kThreadRows x kThreadColumns grid, each owning kTileRows x kTileColumns elements.
template <typename T, int kThreadRows, int kThreadColumns, int kTileRows, int kTileColumns,
          bool kStrided, int kBlocksPerProcessor>
class ScalarProduct {
 public:
  static constexpr int kThreads = kThreadRows * kThreadColumns;
  static constexpr int kRows = kThreadRows * kTileRows;
  static constexpr int kColumns = kThreadColumns * kTileColumns;
  static constexpr int kMinBlocks = kBlocksPerProcessor;

  DCN_DEVICE ScalarProduct() { clear(); }
  DCN_DEVICE bool repeat() { return false; }

  DCN_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTileColumns; ++j) sums_[i][j] = 0;
    }
  }

  DCN_DEVICE void add_contiguous(const T* a, const T* b) {
    constexpr int kStride = Slice<T>::kContiguousStride;
#pragma unroll 1
    for (int k = 0; k < Slice<T>::kDepth; k += kVector) {
      Vector<T> left[kTileRows];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) left[i] = read(a + row(i) * kStride + k);
#pragma unroll
      for (int j = 0; j < kTileColumns; ++j) {
        const Vector<T> right = read(b + column(j) * kStride + k);
#pragma unroll
        for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
          for (int e = 0; e < kVector; ++e) sums_[i][j] += left[i].lane[e] * right.lane[e];
        }
      }
    }
  }

  DCN_DEVICE void add_strided(const T* a, const T* b) {
    constexpr int kStrideA = Slice<T>::template kStridedStride<kRows>;
    constexpr int kStrideB = Slice<T>::template kStridedStride<kColumns>;
#pragma unroll 2
    for (int k = 0; k < Slice<T>::kDepth; ++k) {
      Vector<T> left[kTileRows / kVector];
#pragma unroll
      for (int i = 0; i < kTileRows; i += kVector)
        left[i / kVector] = read(a + k * kStrideA + row(i));
#pragma unroll
      for (int j = 0; j < kTileColumns; j += kVector) {
        const Vector<T> right = read(b + k * kStrideB + column(j));
#pragma unroll
        for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
          for (int e = 0; e < kVector; ++e) {
            sums_[i][j + e] += left[i / kVector].lane[i % kVector] * right.lane[e];
          }
        }
      }
    }
  }

  template <typename Visit>
  DCN_DEVICE void for_each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTileColumns; ++j) visit(row(i), column(j), sums_[i][j]);
    }
  }

 private:
  static constexpr int kVector = Vector<T>::kSize;
  static_assert(!kStrided || (kTileRows % kVector == 0 && kTileColumns % kVector == 0),
                "strided operands are read in vectors");

  // Neighbouring threads own neighbouring rows, or neighbouring vectors of rows.
  static DCN_DEVICE int spread(int thread, int i, int threads) {
    return kStrided ? (i / kVector * threads + thread) * kVector + i % kVector
                    : i * threads + thread;
  }
  static DCN_DEVICE int row(int i) {
    return spread(static_cast<int>(threadIdx.x) / kThreadColumns, i, kThreadRows);
  }
  static DCN_DEVICE int column(int j) {
    return spread(static_cast<int>(threadIdx.x) % kThreadColumns, j, kThreadColumns);
  }
  static DCN_DEVICE Vector<T> read(const T* p) { return *reinterpret_cast<const Vector<T>*>(p); }

  T sums_[kTileRows][kTileColumns];
};

}  // namespace cuda
}  // namespace dcn

// Staging of operands that lie in memory as they are, through cp.async in three buffers.
#pragma once

#include "product.cuh"

namespace dcn {
namespace cuda {

constexpr int kStages = 3;

// Copies `rows` rows of kRowVectors vectors to shared memory, rows `stride` elements apart there.
// address(row, vector) is the source, or null for zeros. Every thread of the block takes part.
template <int kThreads, int kRows, int kRowVectors, typename T, typename Address>
DCN_DEVICE void stage(T* shared, int stride, const Address& address) {
  constexpr int kVectors = kRows * kRowVectors;
#pragma unroll
  for (int first = 0; first < kVectors; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    if (kVectors % kThreads == 0 || i < kVectors) {
      const int row = i / kRowVectors, vector = i % kRowVectors;
      const T* source = address(row, vector);
      copy_async(shared + row * stride + vector * Vector<T>::kSize, source, source != nullptr);
    }
  }
}

}  // namespace cuda
}  // namespace dcn

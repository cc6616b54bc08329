// What the kernels ask of Ampere, on Volta and Turing: copies that are done at once, and the
// fragments of mma.sync, exchanged between the lanes of a warp and multiplied one by one. Turing
// has instructions for float16. What the functions are for is said in device.cuh.
#pragma once

namespace dcn {
namespace cuda {

DCN_DEVICE void copy_async(void* shared, const void* source, bool valid) {
  *static_cast<uint4*>(shared) = valid ? load_vector(source) : uint4{0, 0, 0, 0};
}
DCN_DEVICE void commit_copies() {}
template <int kPending>
DCN_DEVICE void wait_copies() {}

#if __CUDA_ARCH__ < 750

template <bool kTransposed>
DCN_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  const unsigned char* const memory = shared_memory();
  const uint32_t offset = static_cast<uint32_t>(static_cast<const unsigned char*>(row) - memory);
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    if (kTransposed) {
      uint32_t pair[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const uint32_t from = __shfl_sync(~0u, offset, m * 8 + lane % 4 * 2 + e);
        pair[e] = *reinterpret_cast<const uint16_t*>(memory + from + lane / 4 * 2);
      }
      r[m] = pair[0] | pair[1] << 16;
    } else {
      const uint32_t from = __shfl_sync(~0u, offset, m * 8 + lane / 4);
      r[m] = *reinterpret_cast<const uint32_t*>(memory + from + lane % 4 * 4);
    }
  }
}

#endif

// Element 0 or 1 of a fragment's word; a word of TF32 is one element, whose low bits are not read.
template <TensorType kType>
DCN_DEVICE float fragment_element(uint32_t word, int i) {
  if (kType == TensorType::kFloat16) {
    return float_from_half_bits(static_cast<uint16_t>(i == 0 ? word : word >> 16));
  }
  const uint32_t bits = kType == TensorType::kTensorFloat32 ? word & ~0x1fffu
                        : i == 0                            ? word << 16
                                                            : word & ~0xffffu;
  return reinterpret_cast<const float&>(bits);
}

template <TensorType kType>
DCN_DEVICE void multiply_fragments(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 750
  if (kType == TensorType::kFloat16) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
          "{%0,%1,%2,%3};\n"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
    }
    return;
  }
#endif
  constexpr int kElements = kType == TensorType::kTensorFloat32 ? 1 : 2;
  const int lane = static_cast<int>(threadIdx.x % 32);
  // Sum e is of row lane / 4 + e / 2 * 8 and column lane % 4 * 2 + e % 2; four lanes hold a row of
  // a, and a column of b.
#pragma unroll
  for (int word = 0; word < 2; ++word) {
#pragma unroll 1
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int row = lane / 4 * 4 + quarter, column = lane % 4 * 8 + quarter;
      const uint32_t rows[2] = {__shfl_sync(~0u, a[word * 2], row),
                                __shfl_sync(~0u, a[word * 2 + 1], row)};
      const uint32_t columns[2] = {__shfl_sync(~0u, b[word], column),
                                   __shfl_sync(~0u, b[word], column + 4)};
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          c[e] +=
              fragment_element<kType>(rows[e / 2], i) * fragment_element<kType>(columns[e % 2], i);
        }
      }
    }
  }
}

DCN_DEVICE uint16_t bfloat16_bits(float v) {
  const uint32_t bits = reinterpret_cast<const uint32_t&>(v);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
DCN_DEVICE uint32_t tensor_float32_bits(float v) {  // to nearest, ties away from zero
  const uint32_t bits = reinterpret_cast<const uint32_t&>(v);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
}

}  // namespace cuda
}  // namespace dcn

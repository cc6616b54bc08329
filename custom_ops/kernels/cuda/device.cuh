// Element types, 16-byte vectors and the few machine operations the kernels are written in.
//
// Everything that is not plain C++ is in the first section, once as CUDA and once (in the header
// that DCN_CUDA_EMULATION names) as functions that do the same on a CPU, for tests. What chips
// before Ampere lack is in volta.cuh.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef DCN_CUDA_EMULATION
#include DCN_CUDA_EMULATION
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700
#error "the kernels need compute capability 7.0 or later"
#endif

// Chips without cp.async and without mma.sync of these shapes.
#if defined(DCN_EMULATION_VOLTA) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
#define DCN_VOLTA
#endif

#define DCN_DEVICE __device__ __forceinline__

namespace dcn {
namespace cuda {

inline int device_attribute(cudaDeviceAttr attribute, int without_device) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) {
    (void)cudaGetLastError();  // no device: the first launch will say so
    return without_device;
  }
  return value;
}
// Bytes of shared memory that a block may have.
inline size_t shared_limit() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 * 1024);
}

#ifndef DCN_CUDA_EMULATION

// The block's dynamic shared memory; its size is an argument of launch().
DCN_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char dcn_shared_memory[];
  return dcn_shared_memory;
}

DCN_DEVICE uint4 load_vector(const void* source) {
  return __ldg(static_cast<const uint4*>(source));
}

// Adds 16 bytes of floats in memory: one instruction on sm_90 and later.
DCN_DEVICE void atomic_add_vector(float* target, const float (&v)[4]) {
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1201
  asm volatile("red.global.add.v4.f32 [%0], {%1,%2,%3,%4};\n" ::"l"(target), "f"(v[0]), "f"(v[1]),
               "f"(v[2]), "f"(v[3])
               : "memory");
#else
  for (int i = 0; i < 4; ++i) atomicAdd(target + i, v[i]);
#endif
}
DCN_DEVICE void atomic_add_vector(double* target, const double (&v)[2]) {
  for (int i = 0; i < 2; ++i) atomicAdd(target + i, v[i]);
}

DCN_DEVICE float float_from_half_bits(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
DCN_DEVICE uint16_t half_bits(float v) { return __half_as_ushort(__float2half_rn(v)); }

enum class TensorType { kFloat16, kBFloat16, kTensorFloat32 };

#if !defined(DCN_VOLTA) || __CUDA_ARCH__ >= 750

// Four 8 x 16-byte matrices, one per eight lanes' row addresses. Lane i gets bytes 4 * (i % 4) of
// row i / 4 of each; transposed, it gets 16-bit elements (row 2 * (i % 4) + {0, 1}, column i / 4).
template <bool kTransposed>
DCN_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

#endif
#ifndef DCN_VOLTA

// 16 bytes from global to shared memory, or 16 zero bytes; they arrive at wait_copies().
DCN_DEVICE void copy_async(void* shared, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
DCN_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most kPending of this thread's committed groups are under way.
template <int kPending>
DCN_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// c += a * b for a 16 x 8 tile over 32 bytes of the reduction, with mma.sync's fragments.
template <TensorType kType>
DCN_DEVICE void multiply_fragments(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (kType == TensorType::kFloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if (kType == TensorType::kBFloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

DCN_DEVICE uint16_t bfloat16_bits(float v) { return __bfloat16_as_ushort(__float2bfloat16_rn(v)); }
DCN_DEVICE uint32_t tensor_float32_bits(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(v));
  return bits;
}

#endif  // DCN_VOLTA

// What every kernel calls before it reads what earlier kernels write, or writes anything: waits for
// them, and lets the next kernel start.
DCN_DEVICE void await_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Whether the code of a kernel that the current device runs has the instructions above.
template <typename Kernel>
bool awaits_earlier_kernels(Kernel kernel) {
#if CUDART_VERSION >= 11080
  int device = 0, major = 0;
  cudaFuncAttributes code;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      major >= 9 && cudaFuncGetAttributes(&code, kernel) == cudaSuccess) {
    return code.ptxVersion >= 90;
  }
  (void)cudaGetLastError();
#endif
  return false;
}

// The launch as a function that returns its error. kBarriers says whether threads wait for each
// other; only the emulation cares. `early`: the kernel may start before the one before it ends.
template <bool kBarriers, typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
                   cudaStream_t stream, bool early, const Arguments&... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  if (shared_bytes > 48 * 1024) {
    // All that there is, whatever this call needs: other threads' calls set the same limit.
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_limit()));
    if (error != cudaSuccess) return error;
  }
#if CUDART_VERSION >= 11080
  if (early && awaits_earlier_kernels(kernel)) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = static_cast<unsigned>(blocks);
    config.blockDim = static_cast<unsigned>(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
#endif
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

#endif  // DCN_CUDA_EMULATION

}  // namespace cuda
}  // namespace dcn

#ifdef DCN_VOLTA
#include "volta.cuh"
#endif

namespace dcn {
namespace cuda {

// ---------------------------------------------------------------------------------- elements

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
// A float in memory that enters products rounded to 10 mantissa bits.
struct TensorFloat32 {
  float value;
};

// Per element type: the type sums are made in, and how a value is read, written, and rounded to
// be an operand of the product.
template <typename T>
struct Element {  // float, double
  using Sum = T;
  static DCN_DEVICE Sum load(T v) { return v; }
  static DCN_DEVICE T store(Sum v) { return v; }
  static DCN_DEVICE T operand(Sum v) { return v; }
};
template <>
struct Element<Half> {
  using Sum = float;
  static constexpr TensorType kTensorType = TensorType::kFloat16;
  static DCN_DEVICE float load(Half v) { return float_from_half_bits(v.bits); }
  static DCN_DEVICE Half store(float v) { return {half_bits(v)}; }
  static DCN_DEVICE Half operand(float v) { return store(v); }
};
template <>
struct Element<BFloat16> {
  using Sum = float;
  static constexpr TensorType kTensorType = TensorType::kBFloat16;
  static DCN_DEVICE float load(BFloat16 v) {
    const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
    return reinterpret_cast<const float&>(bits);
  }
  static DCN_DEVICE BFloat16 store(float v) { return {bfloat16_bits(v)}; }
  static DCN_DEVICE BFloat16 operand(float v) { return store(v); }
};
template <>
struct Element<TensorFloat32> {
  using Sum = float;
  static constexpr TensorType kTensorType = TensorType::kTensorFloat32;
  static DCN_DEVICE float load(TensorFloat32 v) { return v.value; }
  static DCN_DEVICE TensorFloat32 store(float v) { return {v}; }
  static DCN_DEVICE TensorFloat32 operand(float v) {
    const uint32_t bits = tensor_float32_bits(v);
    return {reinterpret_cast<const float&>(bits)};
  }
};

template <typename T>
using Sum = typename Element<T>::Sum;

// 16 bytes, the unit in which channels are read, staged and added.
template <typename T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T lane[kSize];
};

template <typename T>
DCN_DEVICE Vector<T> vector_of(const uint4& bits) {
  return reinterpret_cast<const Vector<T>&>(bits);
}

// A struct of whole 16 bytes.
template <typename V>
DCN_DEVICE V load_aligned(const V* from) {
  static_assert(alignof(V) == 16, "it consists of vectors");
  V v;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(V) / 16); ++i) {
    reinterpret_cast<uint4*>(&v)[i] = load_vector(reinterpret_cast<const uint4*>(from) + i);
  }
  return v;
}

// As one 16-byte store; the compiler splits the copy of a struct.
template <typename T>
DCN_DEVICE void store_vector(T* target, const Vector<T>& v) {
  *reinterpret_cast<uint4*>(target) = reinterpret_cast<const uint4&>(v);
}

}  // namespace cuda
}  // namespace dcn

// What the CPU kernels need of an instruction set: the compiler's target, and the few operations
// that only assembly names.
//
// A header called -inl.h is compiled once for each instruction set, by its engine_*.cc, which says
// which one with DCN_ISA and DCN_VECTOR_BYTES. All it defines is in the namespace
// dcn::cpu::DCN_ISA: of two functions of one name the linker keeps one, whose instructions a
// processor may lack. Other headers are included here, before the target is set, for the same
// reason.
#pragma once

#include <sched.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "../sampling.h"
#include "../workspace.h"
#include "engine.h"
#include "threads.h"

#ifndef DCN_ISA  // an editor, or a compiler that checks one header
#define DCN_ISA baseline
#define DCN_VECTOR_BYTES 16
#endif

// It holds to the end of the file, since GCC compiles templates and lambdas there.
#ifdef DCN_CPU_EMULATION
#elif DCN_VECTOR_BYTES == 64 && defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#elif DCN_VECTOR_BYTES == 64
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#elif DCN_VECTOR_BYTES == 32 && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif DCN_VECTOR_BYTES == 32
#pragma GCC target("avx2,fma")
#endif

// Vectors that are passed are passed between functions that are always inlined: no ABI matters.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace dcn::cpu::DCN_ISA {

template <typename T, int kLanes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <typename T, int kLanes>
using Vector = typename VectorOf<T, kLanes>::Type;

#ifdef DCN_AMX
// What AMX is told of its eight tiles.
struct TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};
#endif

}  // namespace dcn::cpu::DCN_ISA

#ifdef DCN_CPU_EMULATION
#include DCN_CPU_EMULATION  // the same operations as plain C++, for tests on any machine
#elif DCN_VECTOR_BYTES == 64

namespace dcn::cpu::DCN_ISA {

// Each of the lanes with zeros in front, which GCC 12 does in halves.
DCN_INLINE Vector<uint32_t, 16> widen_lanes(Vector<uint16_t, 16> v) {
  Vector<uint32_t, 16> result;
  asm("vpmovzxwd %1, %0" : "=v"(result) : "vm"(v));
  return result;
}

#ifdef DCN_SPLIT

// The nearest bfloat16 numbers. Subnormal ones count as 0, as in the products.
template <int kLanes>
DCN_INLINE Vector<uint16_t, kLanes> narrow_lanes(Vector<float, kLanes> v) {
  static_assert(kLanes == 16 || kLanes == 8, "there are instructions for these");
  Vector<uint16_t, kLanes> result;
  asm("vcvtneps2bf16 %1, %0" : "=v"(result) : "v"(v));
  return result;
}
DCN_INLINE Vector<uint16_t, 32> narrow_lanes(Vector<float, 16> first, Vector<float, 16> second) {
  Vector<uint16_t, 32> result;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(result) : "v"(first), "v"(second));
  return result;
}

// v[order[i]] in lane i.
DCN_INLINE Vector<uint16_t, 32> permute_lanes(Vector<uint16_t, 32> v, Vector<uint16_t, 32> order) {
  Vector<uint16_t, 32> result;
  asm("vpermw %1, %2, %0" : "=v"(result) : "v"(v), "v"(order));
  return result;
}

#ifndef DCN_AMX

// Adds to each lane the products of two pairs of bfloat16 numbers.
DCN_INLINE void add_pair_products(Vector<float, 16>& sum, Vector<uint32_t, 16> left,
                                  Vector<uint32_t, 16> right) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(right), "v"(left));
}

#else

// `shapes` holds until release_tiles(). Strides are in bytes.
DCN_INLINE void set_tile_shapes(const TileShapes& shapes) {
  asm volatile("ldtilecfg %0" ::"m"(shapes));
}
template <int kTile>
DCN_INLINE void load_tile(const void* data, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(data), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
DCN_INLINE void store_tile(void* data, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(data), "r"(stride), "i"(kTile) : "memory");
}
// Adds the product of two tiles of bfloat16 numbers to one of float32.
template <int kSum, int kLeft, int kRight>
DCN_INLINE void multiply_tile() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
}
DCN_INLINE void release_tiles() { asm volatile("tilerelease"); }

#endif  // DCN_AMX
#endif  // DCN_SPLIT

}  // namespace dcn::cpu::DCN_ISA

#endif  // DCN_CPU_EMULATION

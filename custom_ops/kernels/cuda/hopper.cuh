// What Hopper (compute capability 9.0) adds to the machine operations of device.cuh: barriers in
// shared memory that count bytes, bulk copies, and products of a whole warpgroup.
//
// As there, the first section is CUDA, and DCN_CUDA_EMULATION's header has functions that do the
// same on a CPU.
#pragma once

#include "device.cuh"

namespace dcn {
namespace cuda {

#ifndef DCN_CUDA_EMULATION

// Only code for sm_90a has them; elsewhere these functions are never called.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DCN_HOPPER(...) asm volatile(__VA_ARGS__)
#else
#define DCN_HOPPER(...)
#endif

DCN_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// A barrier of the block whose phase ends when `arrivals` threads have arrived, and all bytes
// that they announced.
struct PhaseBarrier {
  uint64_t state;

  DCN_DEVICE void initialise(int arrivals) {
    DCN_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(this)),
               "r"(arrivals) : "memory");
  }
  DCN_DEVICE void arrive() {
    DCN_HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(this)) : "memory");
  }
  DCN_DEVICE void arrive_and_expect(int bytes) {
    DCN_HOPPER(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(this)),
        "r"(bytes) : "memory");
  }
  // Until the phase of this parity (0, 1, 0, ...) has ended.
  DCN_DEVICE void wait(int parity) {
    DCN_HOPPER(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(shared_address(this)),
        "r"(parity) : "memory");
  }
};

// Makes initialised barriers visible to bulk copies.
DCN_DEVICE void publish_barriers() {
  DCN_HOPPER("fence.mbarrier_init.release.cluster;\n" :: : "memory");
}

// From global to shared memory; the bytes arrive at the barrier. Both are 16-byte aligned.
DCN_DEVICE void copy_bulk(void* shared, const void* source, int bytes, PhaseBarrier* barrier) {
  DCN_HOPPER(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(shared_address(shared)),
      "l"(source), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}

// The 64 x 64 sums of a warpgroup: lane 4 * r + q of warp w holds rows 16 * w + r and + 8, columns
// 8 * j + 2 * q and + 1, at sums[4 * j] on.
using WarpgroupSums = float[32];

// Between writes to registers and the products that read them.
DCN_DEVICE void begin_products() { DCN_HOPPER("wgmma.fence.sync.aligned;\n" :: : "memory"); }
DCN_DEVICE void commit_products() {
  DCN_HOPPER("wgmma.commit_group.sync.aligned;\n" :: : "memory");
}
// Waits until at most kPending committed groups are under way.
template <int kPending>
DCN_DEVICE void wait_products() {
  DCN_HOPPER("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// 64 rows of 128 bytes in shared memory from a multiple of 1024 bytes on, as the right operand of a
// product: vector v of row r lies at vector v ^ (r % 8) of the row. Of the reduction, which runs
// along the rows, further bytes are reached by adding a sixteenth of them.
using Matrix = uint64_t;
DCN_DEVICE Matrix matrix(const void* rows) {
  // Swizzle of 128 bytes; groups of eight rows are 1024 bytes apart.
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 16 |
         shared_address(rows) >> 4;
}

#define DCN_SUMS                                                                            \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1, 1, 1"
#define DCN_OPERANDS                                                                              \
  "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), \
      "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]),    \
      "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]),  \
      "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]),  \
      "+f"(c[29]), "+f"(c[30]), "+f"(c[31]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)

// c += a * b over 32 bytes of the reduction, asynchronously: a in the fragments of mma.sync.
template <TensorType kType>
DCN_DEVICE void multiply_warpgroup(WarpgroupSums& c, const uint32_t (&a)[4], Matrix b) {
  if (kType == TensorType::kFloat16) {
    DCN_HOPPER("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " DCN_SUMS
               ", 0;\n" : DCN_OPERANDS);
  } else if (kType == TensorType::kBFloat16) {
    DCN_HOPPER("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " DCN_SUMS
               ", 0;\n" : DCN_OPERANDS);
  } else {
    DCN_HOPPER("wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 " DCN_SUMS
               ";\n" : DCN_OPERANDS);
  }
}
#undef DCN_OPERANDS
#undef DCN_SUMS
#undef DCN_HOPPER

#endif  // DCN_CUDA_EMULATION

}  // namespace cuda
}  // namespace dcn

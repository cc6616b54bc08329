// Runs the CUDA kernels' sources on a CPU: the language extensions and machine operations that
// custom_ops/kernels/cuda/device.cuh leaves open, as plain C++.
//
// Kernels without barriers are loops. A block with barriers runs as fibers (the default: fast, a
// barrier that not every thread reaches is reported) or, with DCN_EMULATION_THREADS, as threads,
// several blocks at a time, for ThreadSanitizer. Shared memory is a heap block of the exact size,
// filled with NaN patterns, for AddressSanitizer. Asynchronous copies really happen at the wait.
//
// With DCN_EMULATION_VOLTA it is a chip of the generations that volta.cuh is for.
#pragma once

#include <pthread.h>
#include <setjmp.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor
};
struct cudaFuncAttributes {
  int numRegs;
};
using cudaStream_t = void*;

namespace emulation {

struct Index {
  unsigned x;
};

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "emulation: %s\n", message);
  std::abort();
}

inline int processors = 4;
inline bool hopper = false;
inline size_t shared_limit() {
#ifdef DCN_EMULATION_VOLTA
  return 64 * 1024;  // sm_75's
#else
  return (hopper ? 227 : 99) * 1024;  // else the least of sm_80 and later
#endif
}
inline bool backwards = false;
inline bool dry = false;      // kernels are only noted:
inline std::string launches;  // a line with the type of each, and its blocks

// ------------------------------------------------------------------------------- scheduling

struct Copy {
  void* target;
  const void* source;  // null: zeros
};

// A product of a warpgroup that is under way: what one thread adds to its sums.
struct Product {
  float* sums;
  const uint32_t* operand;  // its own, which must not change
  uint32_t left[4][4];      // those of the four lanes that share its rows
  uint64_t right;
  void (*add)(const Product&);
};

// A bulk copy that has not happened yet.
struct BulkCopy {
  void* target;
  const void* source;
  int bytes;
  void* barrier;
};

struct Block;
struct Thread {
  Block* block;
  Index thread_index;
  unsigned exchanges = 0;                            // warp operations so far
  unsigned votes = 0;                                // of the block, likewise
  std::vector<std::vector<Copy>> groups;             // committed asynchronous copies, oldest first
  std::vector<Copy> copies;                          // not yet committed
  std::vector<std::vector<Product>> product_groups;  // likewise
  std::vector<Product> products;
  bool done = false;
#ifndef DCN_EMULATION_THREADS
  jmp_buf resume;
#endif
};
inline thread_local Thread* self = nullptr;

#ifdef DCN_EMULATION_THREADS

class Barrier {
 public:
  explicit Barrier(unsigned size) { pthread_barrier_init(&barrier_, nullptr, size); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

#else

inline jmp_buf scheduler;  // _setjmp rather than swapcontext: it makes no system calls
inline bool progress;

class Barrier {
 public:
  explicit Barrier(unsigned size) : size_(size) {}
  void wait() {
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++generation_;
      progress = true;
      return;
    }
    const unsigned generation = generation_;
    while (generation == generation_) {
      if (_setjmp(self->resume) == 0) _longjmp(scheduler, 1);
    }
  }

 private:
  unsigned size_, arrived_ = 0, generation_ = 0;
};

#endif

struct Warp {
  Barrier barrier{32};
  alignas(16) unsigned char slots[2][32][64];
};

struct Block {
  Index block_index, block_size, grid_size;
  std::unique_ptr<unsigned char[]> shared;
  Barrier barrier;
  std::atomic<int> votes[3] = {};
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<Thread> threads;
  std::mutex mutex;  // of the barriers in its shared memory, and of:
  std::vector<BulkCopy> bulk_copies;
  const std::function<void()>& body;

  Block(unsigned index, unsigned size, unsigned grid, size_t shared_bytes,
        const std::function<void()>& kernel)
      : block_index{index},
        block_size{size},
        grid_size{grid},
        shared(new unsigned char[shared_bytes]),
        barrier(size),
        threads(size),
        body(kernel) {
    std::memset(shared.get(), 0xff, shared_bytes);
    for (unsigned w = 0; w < size / 32; ++w) warps.emplace_back(new Warp);
    for (unsigned i = 0; i < size; ++i) {
      threads[i].block = this;
      threads[i].thread_index.x = i;
    }
  }
};

#ifdef DCN_EMULATION_THREADS

// Threads that outlive a launch: under ThreadSanitizer it takes a millisecond to start one. None
// begins before all are there, so that what one has done orders nothing for another.
class Team {
 public:
  explicit Team(unsigned size) : barrier_(size + 1) {
    for (unsigned i = 0; i < size; ++i) {
      threads_.emplace_back([this, i] {
        for (barrier_.wait(); work_; barrier_.wait()) {
          work_(i);
          barrier_.wait();
        }
      });
    }
  }
  ~Team() {
    work_ = nullptr;
    barrier_.wait();
    for (std::thread& thread : threads_) thread.join();
  }
  // Calls work(i) in each thread.
  void run(std::function<void(unsigned)> work) {
    work_ = std::move(work);
    barrier_.wait();
    barrier_.wait();
  }

 private:
  Barrier barrier_;
  std::function<void(unsigned)> work_;
  std::vector<std::thread> threads_;
};

inline void run_grid(unsigned grid, unsigned size, size_t shared_bytes, bool,
                     const std::function<void()>& body) {
  constexpr unsigned kConcurrentBlocks = 3;
  static std::map<unsigned, Team> teams;  // by size
  for (unsigned first = 0; first < grid; first += kConcurrentBlocks) {
    std::vector<std::unique_ptr<Block>> blocks;
    for (unsigned b = first; b < grid && b < first + kConcurrentBlocks; ++b) {
      blocks.emplace_back(new Block(b, size, grid, shared_bytes, body));
    }
    const unsigned threads = static_cast<unsigned>(blocks.size()) * size;
    teams.try_emplace(threads, threads).first->second.run([&](unsigned i) {
      self = &blocks[i / size]->threads[i % size];
      self->block->body();
    });
  }
}

#else

// The i-th of `count` blocks, or threads, to run.
inline unsigned in_order(unsigned i, unsigned count) { return backwards ? count - 1 - i : i; }

inline void run_fiber() {
  self->block->body();
  self->done = true;
  progress = true;
  _longjmp(scheduler, 1);
}

inline void start_fiber(char* stack, size_t bytes) {
  if (_setjmp(scheduler) != 0) return;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, run_fiber, 0);
  setcontext(&context);
}

inline void resume_fiber() {
  if (_setjmp(scheduler) == 0) _longjmp(self->resume, 1);
}

inline void run_grid(unsigned grid, unsigned size, size_t shared_bytes, bool barriers,
                     const std::function<void()>& body) {
  constexpr size_t kStackBytes = 256 * 1024;
  static std::vector<std::unique_ptr<char[]>> stacks;
  for (unsigned b = 0; b < grid; ++b) {
    Block block(in_order(b, grid), size, grid, shared_bytes, body);
    if (!barriers) {
      for (unsigned i = 0; i < size; ++i) {
        self = &block.threads[in_order(i, size)];
        body();
      }
      continue;
    }
    while (stacks.size() < size) stacks.emplace_back(new char[kStackBytes]);
    bool first = true;
    for (unsigned left = size; left > 0; first = false) {
      progress = first;
      for (unsigned i = 0; i < size; ++i) {
        Thread& thread = block.threads[in_order(i, size)];
        if (thread.done) continue;
        self = &thread;
        if (first) {
          start_fiber(stacks[thread.thread_index.x].get(), kStackBytes);
        } else {
          resume_fiber();
        }
        left -= thread.done;
      }
      if (!progress) fail("a barrier that not every thread of its block or warp reaches");
    }
  }
}

#endif

// ---------------------------------------------------------------------------- warp exchange

// What every lane of a warp passed to the same operation.
template <typename V>
class Exchange {
 public:
  Exchange(int operation, const V& mine) {
    static_assert(sizeof(V) + sizeof(int) <= 64, "a slot holds it");
    Thread* const me = self;
    Warp& warp = *me->block->warps[me->thread_index.x / 32];
    slots_ = warp.slots[me->exchanges++ % 2];  // the other one may still be read
    unsigned char* const slot = slots_[me->thread_index.x % 32];
    std::memcpy(slot, &operation, sizeof(operation));
    std::memcpy(slot + sizeof(operation), &mine, sizeof(mine));
    warp.barrier.wait();
    for (int lane = 0; lane < 32; ++lane) {
      if (std::memcmp(slots_[lane], &operation, sizeof(operation)) != 0) {
        fail("the lanes of a warp are at different operations");
      }
    }
  }
  V operator[](int lane) const {
    V value;
    std::memcpy(&value, slots_[lane] + sizeof(int), sizeof(value));
    return value;
  }

 private:
  unsigned char (*slots_)[64];
};

template <typename To, typename From>
To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline float float_from_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest < 0x400) {  // subnormal: a multiple of 2^-24
    const float v = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -v : v;
  }
  return bit_cast<float>(sign | (rest + (112 << 10)) << 13);
}

inline uint16_t half_from_float(float v) {
  const uint32_t bits = bit_cast<uint32_t>(v), rest = bits & 0x7fffffff;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  uint32_t half;
  if (rest > 0x7f800000) {
    half = 0x7fff;
  } else if (rest >= 0x477ff000) {  // from 65520 on, rounded to infinity
    half = 0x7c00;
  } else if (rest < 0x38800000) {  // adding 0.5 rounds to a multiple of 2^-24
    half = bit_cast<uint32_t>(bit_cast<float>(rest) + 0.5f) - 0x3f000000;
  } else {
    half = (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

inline float float_from_bfloat16(uint16_t bits) {
  return bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t bfloat16_from_float(float v) {
  const uint32_t bits = bit_cast<uint32_t>(v);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulation

#define threadIdx (emulation::self->thread_index)
#define blockIdx (emulation::self->block->block_index)
#define blockDim (emulation::self->block->block_size)
#define gridDim (emulation::self->block->grid_size)

inline void __syncthreads() { emulation::self->block->barrier.wait(); }
inline int __syncthreads_or(int vote) {
  std::atomic<int>(&votes)[3] = emulation::self->block->votes;
  const unsigned now = emulation::self->votes++;
  votes[(now + 1) % 3] = 0;  // last read before the previous barrier
  if (vote) votes[now % 3] = 1;
  __syncthreads();
  return votes[now % 3];
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return emulation::Exchange<T>(1, value)[lane ^ mask];
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulation::Exchange<T>(4, value)[lane % 32];
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  const emulation::Exchange<bool> votes(5, vote);
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(votes[lane]) << lane;
  return all;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int atomicAdd(int* target, int value) {
  return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
}

template <typename T>
void atomic_add_float(T* target, T value) {
  T old, sum;
  __atomic_load(target, &old, __ATOMIC_RELAXED);
  do {
    sum = old + value;
  } while (
      !__atomic_compare_exchange(target, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulation::processors
           : attribute == cudaDevAttrComputeCapabilityMajor
               ? (emulation::hopper ? 9 : 8)
               : static_cast<int>(emulation::shared_limit());
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
  *attributes = {255};
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  if (!emulation::dry) std::memset(target, value, bytes);
  return cudaSuccess;
}
inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess                     ? "cudaSuccess"
         : error == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration"
                                                  : "cudaErrorInvalidValue";
}

extern "C" __attribute__((used)) inline void dcn_emulation_set_processors(int count) {
  emulation::processors = count;
}
extern "C" __attribute__((used)) inline void dcn_emulation_set_hopper(int hopper) {
  emulation::hopper = hopper != 0;
}
// What was launched since the last call; from now on, kernels are run or only noted.
extern "C" __attribute__((used)) inline const char* dcn_emulation_launches(int dry) {
  static std::string launches;
  launches.swap(emulation::launches);
  emulation::launches.clear();
  emulation::dry = dry != 0;
  return launches.c_str();
}
// Without DCN_EMULATION_THREADS: whether blocks and their threads run last one first.
extern "C" __attribute__((used)) inline void dcn_emulation_run_backwards(int backwards) {
  emulation::backwards = backwards != 0;
}

namespace dcn {
namespace cuda {

inline unsigned char* shared_memory() { return emulation::self->block->shared.get(); }

inline void check_alignment(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16) emulation::fail("a 16-byte access is not aligned");
}

inline uint4 load_vector(const void* source) {
  check_alignment(source);
  uint4 v;
  std::memcpy(&v, source, sizeof(v));
  return v;
}

inline void atomic_add_vector(float* target, const float (&v)[4]) {
  check_alignment(target);
  for (int i = 0; i < 4; ++i) atomic_add_float(target + i, v[i]);
}
inline void atomic_add_vector(double* target, const double (&v)[2]) {
  for (int i = 0; i < 2; ++i) atomic_add_float(target + i, v[i]);
}

inline float float_from_half_bits(uint16_t bits) { return emulation::float_from_half(bits); }
inline uint16_t half_bits(float v) { return emulation::half_from_float(v); }

enum class TensorType { kFloat16, kBFloat16, kTensorFloat32 };

// An element of a word of an operand.
template <TensorType kType>
float operand_element(uint32_t word, int half) {
  const uint16_t bits = static_cast<uint16_t>(half ? word >> 16 : word);
  if (kType == TensorType::kFloat16) return emulation::float_from_half(bits);
  if (kType == TensorType::kBFloat16) return emulation::float_from_bfloat16(bits);
  return emulation::bit_cast<float>(word & ~0x1fffu);  // the low 13 bits are not read
}
template <TensorType kType>
constexpr int kElementsPerWord = kType == TensorType::kTensorFloat32 ? 1 : 2;

#ifndef DCN_EMULATION_VOLTA

inline void copy_async(void* shared, const void* source, bool valid) {
  check_alignment(shared);
  check_alignment(source);
  emulation::self->copies.push_back({shared, valid ? source : nullptr});
}
inline void commit_copies() {
  emulation::self->groups.push_back(std::move(emulation::self->copies));
  emulation::self->copies.clear();
}
template <int kPending>
void wait_copies() {
  auto& groups = emulation::self->groups;
  while (groups.size() > kPending) {
    for (const emulation::Copy& copy : groups.front()) {
      if (copy.source) {
        std::memcpy(copy.target, copy.source, 16);
      } else {
        std::memset(copy.target, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

template <bool kTransposed>
void load_matrices(uint32_t (&r)[4], const void* row) {
  check_alignment(row);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const emulation::Exchange<const void*> rows(2, row);
  for (int m = 0; m < 4; ++m) {
    if (kTransposed) {
      uint16_t pair[2];
      for (int e = 0; e < 2; ++e) {
        const char* from = static_cast<const char*>(rows[m * 8 + lane % 4 * 2 + e]);
        std::memcpy(&pair[e], from + lane / 4 * 2, 2);
      }
      std::memcpy(&r[m], pair, 4);
    } else {
      const char* from = static_cast<const char*>(rows[m * 8 + lane / 4]);
      std::memcpy(&r[m], from + lane % 4 * 4, 4);
    }
  }
}

template <TensorType kType>
void multiply_fragments(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  Fragments mine;
  std::memcpy(mine.a, a, sizeof(mine.a));
  std::memcpy(mine.b, b, sizeof(mine.b));
  const emulation::Exchange<Fragments> all(3, mine);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int quarter = 0; quarter < 4; ++quarter) {  // lanes of a row that hold parts of k
    const Fragments left = all[lane / 4 * 4 + quarter];
    const Fragments right[2] = {all[lane % 4 * 8 + quarter], all[lane % 4 * 8 + 4 + quarter]};
    for (int word = 0; word < 2; ++word) {  // low and high half of k
      for (int h = 0; h < kElementsPerWord<kType>; ++h) {
        for (int e = 0; e < 4; ++e) {
          c[e] += operand_element<kType>(left.a[word * 2 + e / 2], h) *
                  operand_element<kType>(right[e % 2].b[word], h);
        }
      }
    }
  }
}

inline uint16_t bfloat16_bits(float v) { return emulation::bfloat16_from_float(v); }
inline uint32_t tensor_float32_bits(float v) {  // to nearest, ties away from zero
  const uint32_t bits = emulation::bit_cast<uint32_t>(v);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
}

#endif

// ---- what hopper.cuh leaves open

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p));
}

class PhaseBarrier {
 public:
  void initialise(int arrivals) {
    arrivals_ = missing_ = static_cast<int8_t>(arrivals);
    parity_ = 0;
    bytes_ = 0;
  }
  void arrive() { arrive_and_expect(0); }
  void arrive_and_expect(int bytes) {
    const std::lock_guard<std::mutex> lock(emulation::self->block->mutex);
    --missing_;
    bytes_ += bytes;
    finish_phase();
  }
  // Called with the mutex held.
  void complete(int bytes) {
    bytes_ -= bytes;
    finish_phase();
  }
  void wait(int parity) {
    for (;;) {
      {
        emulation::Block& block = *emulation::self->block;
        const std::lock_guard<std::mutex> lock(block.mutex);
        auto& copies = block.bulk_copies;
        for (size_t i = 0; i < copies.size();) {
          if (copies[i].barrier != this) {
            ++i;
            continue;
          }
          std::memcpy(copies[i].target, copies[i].source, static_cast<size_t>(copies[i].bytes));
          complete(copies[i].bytes);
          copies.erase(copies.begin() + static_cast<ptrdiff_t>(i));
        }
        if (parity_ != parity) return;
      }
#ifdef DCN_EMULATION_THREADS
      std::this_thread::yield();
#else
      if (_setjmp(emulation::self->resume) == 0) _longjmp(emulation::scheduler, 1);
#endif
    }
  }

 private:
  void finish_phase() {
    if (missing_ > 0 || bytes_ != 0) return;
    if (missing_ < 0) emulation::fail("more threads arrive at a barrier than it was made for");
    missing_ = arrivals_;
    parity_ ^= 1;
#ifndef DCN_EMULATION_THREADS
    emulation::progress = true;
#endif
  }

  int8_t arrivals_, missing_, parity_;  // at most 32 warps arrive
  int32_t bytes_;
};
static_assert(sizeof(PhaseBarrier) == 8, "as large as the real one");

inline void publish_barriers() {}

// Run forwards, it happens at once, and finds who still reads what it overwrites; run backwards,
// when somebody waits for it, and finds who does not.
inline void copy_bulk(void* shared, const void* source, int bytes, PhaseBarrier* barrier) {
  check_alignment(shared);
  check_alignment(source);
  const std::lock_guard<std::mutex> lock(emulation::self->block->mutex);
  if (emulation::backwards) {
    emulation::self->block->bulk_copies.push_back({shared, source, bytes, barrier});
  } else {
    std::memcpy(shared, source, static_cast<size_t>(bytes));
    barrier->complete(bytes);
  }
}

using WarpgroupSums = float[32];
using Matrix = uint64_t;
inline Matrix matrix(const void* rows) {
  if (reinterpret_cast<uintptr_t>(rows) % 1024) emulation::fail("a matrix is not aligned");
  return reinterpret_cast<uintptr_t>(rows) / 16;
}

inline void begin_products() {}
inline void commit_products() {
  emulation::self->product_groups.push_back(std::move(emulation::self->products));
  emulation::self->products.clear();
}
template <int kPending>
void wait_products() {
  auto& groups = emulation::self->product_groups;
  while (groups.size() > kPending) {
    for (const emulation::Product& product : groups.front()) product.add(product);
    groups.erase(groups.begin());
  }
}

template <TensorType kType>
void add_product(const emulation::Product& p) {
  const int quarter = static_cast<int>(threadIdx.x % 4);
  if (std::memcmp(p.operand, p.left[quarter], sizeof(p.left[quarter])) != 0) {
    emulation::fail("an operand in registers changes while a product reads it");
  }
  for (int i = 0; i < 32; ++i) {
    const int column = i / 4 * 8 + quarter * 2 + i % 2;
    for (int lane = 0; lane < 4; ++lane) {
      for (int half = 0; half < 2; ++half) {
        uintptr_t at = p.right * 16 + column * 128u + half * 16u + lane * 4u;
        at ^= (at >> 7 & 7) << 4;
        uint32_t right;
        std::memcpy(&right, reinterpret_cast<const void*>(at), 4);
        for (int h = 0; h < kElementsPerWord<kType>; ++h) {
          p.sums[i] += operand_element<kType>(p.left[lane][half * 2 + i / 2 % 2], h) *
                       operand_element<kType>(right, h);
        }
      }
    }
  }
}

// Happens when it is waited for.
template <TensorType kType>
void multiply_warpgroup(WarpgroupSums& c, const uint32_t (&a)[4], Matrix b) {
  struct Operand {
    uint32_t words[4];
  };
  Operand mine;
  std::memcpy(mine.words, a, sizeof(mine.words));
  const emulation::Exchange<Operand> all(5, mine);
  emulation::Product product = {c, a, {}, b, add_product<kType>};
  for (int lane = 0; lane < 4; ++lane) {
    const Operand theirs = all[static_cast<int>(threadIdx.x % 32) / 4 * 4 + lane];
    std::memcpy(product.left[lane], theirs.words, sizeof(theirs.words));
  }
  emulation::self->products.push_back(product);
}

inline void __syncwarp() { emulation::self->block->warps[threadIdx.x / 32]->barrier.wait(); }

inline void await_earlier_kernels() {}

template <bool kBarriers, typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
                   cudaStream_t, bool, const Arguments&... arguments) {
  constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;
  if (blocks == 0) return cudaSuccess;
  if (blocks < 0 || blocks > kMaxBlocks || threads > 1024 || threads % 32 != 0) {
    return cudaErrorInvalidConfiguration;
  }
  if (shared_bytes > emulation::shared_limit()) return cudaErrorInvalidValue;
  if (emulation::dry) {
    emulation::launches += __PRETTY_FUNCTION__;
    emulation::launches += ' ' + std::to_string(blocks) + '\n';
    return cudaSuccess;
  }
  const std::function<void()> body = [&] { kernel(arguments...); };
  emulation::run_grid(static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared_bytes,
                      kBarriers, body);
  return cudaSuccess;
}

}  // namespace cuda
}  // namespace dcn

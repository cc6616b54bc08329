// Chooses the device's kernels and gives them their workspace and threads.
#include "run_on_device.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "../kernels/dcn.h"
#include "errors.h"
#include "packed_weights.h"

namespace dcn {
namespace binding {
namespace {

constexpr size_t kHugePage = 2 << 20;

// Asks for huge pages where fresh memory is about to be written: clearing small ones, fault by
// fault, can take longer than the kernels. Only advice, so failure does not matter.
void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

// Scratch memory for one call on the CPU. The last block is kept for the next call, up to
// kKeptBytes: Paddle's CPU allocator would map, and the system clear, fresh pages every time.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(kept_mutex);
      std::swap(block_, kept);
    }
    if (block_.bytes >= bytes) return;
    block_ = {};  // frees the smaller one first
    const size_t rounded = (bytes + kHugePage - 1) & ~(kHugePage - 1);
    block_.data.reset(std::aligned_alloc(kHugePage, rounded));
    if (block_.data == nullptr) throw std::bad_alloc();
    block_.bytes = rounded;
    advise_huge_pages(block_.data.get(), rounded);
  }

  ~Workspace() {
    if (block_.bytes > kKeptBytes) return;
    const std::lock_guard<std::mutex> lock(kept_mutex);
    if (block_.bytes > kept.bytes) std::swap(block_, kept);
  }

  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const { return block_.data.get(); }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    size_t bytes = 0;
  };

  static constexpr size_t kKeptBytes = 64 << 20;
  static std::mutex kept_mutex;
  static Block kept;

  Block block_;
};

std::mutex Workspace::kept_mutex;
Workspace::Block Workspace::kept;

}  // namespace

int choose_engine(DataType dtype) {
  static const std::array<int, kDataTypes> chosen = [] {
    const char* const limit = std::getenv("PADDLE_DCN_INSTRUCTION_SET");
    int highest = -1;
    for (int i = 0; limit != nullptr && i < dcn_cpu_engines(); ++i) {
      if (std::strcmp(limit, dcn_cpu_engine_name(i)) == 0) highest = i;
    }
    std::array<int, kDataTypes> engines{};
    for (int i = 0; i < kDataTypes; ++i) {
      engines[i] = dcn_cpu_default_engine(static_cast<DataType>(i), highest);
    }
    return engines;
  }();
  return chosen[static_cast<int>(dtype)];
}

void require_supported(const paddle::Tensor& x, Operator of) {
  if (x.is_cpu()) return;
  if (of == Operator::kInference || of == Operator::kPlain) {
    throw_value_error(
        "x: expected a CPU tensor, for which the model was converted (with fuse=False it runs "
        "elsewhere), got one on " +
        x.place().DebugString());
  }
#ifdef PADDLE_DCN_WITH_CUDA
  if (x.is_gpu()) return;
  const char* const expected = "x: expected a CPU or GPU tensor, got one on ";
#else
  const char* const expected =
      "x: expected a CPU tensor (paddle_dcn was built without CUDA), got one on ";
#endif
  throw_value_error(expected + x.place().DebugString());
}

void will_write(const paddle::Tensor& tensor) {
  if (!tensor.is_cpu()) return;
  const size_t bytes = tensor.numel() * phi::SizeOf(tensor.dtype());
  advise_huge_pages(const_cast<void*>(tensor.data()), bytes);
}

void forward(const Problem& problem, const ForwardTensors& tensors, const paddle::Tensor& place) {
#ifdef PADDLE_DCN_WITH_CUDA
  if (place.is_gpu()) return cuda_forward(problem, tensors, place);
#else
  (void)place;
#endif
  const int engine = choose_engine(problem.dtype), threads = dcn_cpu_max_threads();
  const Workspace workspace(dcn_cpu_forward_workspace(&problem, &tensors, engine, threads));
  dcn_cpu_forward(&problem, &tensors, workspace.data(), engine, threads);
}

void infer(const Problem& problem, ForwardTensors tensors, const paddle::Tensor& weight,
           bool constant) {
  static PackedWeights weights;
  if (!constant) return forward(problem, tensors, weight);
  PackedWeights::Use use(weights, weight, problem, choose_engine(problem.dtype));
  tensors.packed = use.memory();
  tensors.packs = use.packs();
  forward(problem, tensors, weight);
  use.done();
}

void backward(const Problem& problem, const BackwardTensors& tensors, const paddle::Tensor& place) {
#ifdef PADDLE_DCN_WITH_CUDA
  if (place.is_gpu()) return cuda_backward(problem, tensors, place);
#else
  (void)place;
#endif
  const int engine = choose_engine(problem.dtype), threads = dcn_cpu_max_threads();
  const Workspace workspace(dcn_cpu_backward_workspace(&problem, &tensors, engine, threads));
  dcn_cpu_backward(&problem, &tensors, workspace.data(), engine, threads);
}

#ifdef PADDLE_DCN_WITH_CUDA
void report_device_error(const std::string& message) {
  PADDLE_THROW(phi::errors::External("%s", message));
}
#endif

}  // namespace binding
}  // namespace dcn

// Chooses the device's kernels and gives them their workspace and threads.
#include "dispatch.h"

#include <omp.h>

#include "../kernels/cpu/cpu.h"
#include "errors.h"

namespace dcn {
namespace binding {
namespace {

constexpr size_t kAlignment = 64;

// Scratch memory from Paddle's allocator, which caches it between calls.
class Workspace {
 public:
  Workspace(size_t bytes, const phi::Place& place) {
    if (bytes == 0) return;
    memory_ = paddle::empty({static_cast<int64_t>(bytes + kAlignment)}, phi::DataType::UINT8,
                            place);
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    data_ = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }
  void* data() const { return data_; }

 private:
  paddle::Tensor memory_;
  void* data_ = nullptr;
};

}  // namespace

void require_supported(const paddle::Tensor& x) {
  if (x.is_cpu()) return;
  throw_value_error("x: expected a CPU tensor (paddle_dcn was built without CUDA), got one on " +
                    x.place().DebugString());
}

// Paddle's own OpenMP runtime is the one in this process, so its thread setting is ours.
void forward(const Problem& problem, const ForwardTensors& tensors, const paddle::Tensor& x) {
  const int threads = omp_get_max_threads();
  const Workspace workspace(cpu::forward_workspace(problem, threads), x.place());
  cpu::forward(problem, tensors, workspace.data(), threads);
}

void backward(const Problem& problem, const BackwardTensors& tensors, const paddle::Tensor& x) {
  const int threads = omp_get_max_threads();
  const Workspace workspace(cpu::backward_workspace(problem, tensors, threads), x.place());
  cpu::backward(problem, tensors, workspace.data(), threads);
}

}  // namespace binding
}  // namespace dcn

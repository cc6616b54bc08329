// Runs a problem on an NVIDIA GPU, with Paddle's stream and Paddle's memory.
#ifdef PADDLE_DCN_WITH_CUDA

// For Tensor::stream(). Under it Paddle's error macros need headers of cuBLAS, cuDNN and NCCL, so
// errors.h is not included here.
#define PADDLE_WITH_CUDA
#include <cuda_runtime_api.h>

#include "../kernels/dcn.h"
#include "run_on_device.h"
#if PADDLE_DCN_PADDLE_MAJOR >= 3
#include "paddle/common/flags.h"
#else
#include "paddle/phi/core/flags.h"
#endif

// Weak, because a Paddle without CUDA lacks it: the library still loads there.
namespace phi {
__attribute__((weak)) bool AllowTF32Cudnn();
}

namespace dcn {
namespace binding {
namespace {

void require_success(const char* what, int error) {
  if (error == cudaSuccess) return;
  report_device_error(std::string("paddle_dcn: ") + what + " failed with " +
                      dcn_cuda_error_name(error));
}

// Makes x's device the current one of the CUDA runtime in this library, which is not Paddle's.
class CurrentDevice {
 public:
  explicit CurrentDevice(const paddle::Tensor& x) {
    require_success("cudaGetDevice", cudaGetDevice(&before_));
    require_success("cudaSetDevice", cudaSetDevice(x.place().GetDeviceId()));
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

// Paddle's own convolutions follow the same two settings.
int flags() {
  int result = 0;
  const auto& all = phi::GetExportedFlagInfoMap();
  const auto deterministic = all.find("cudnn_deterministic");
  if (deterministic != all.end() && *static_cast<const bool*>(deterministic->second.value_ptr)) {
    result |= cuda::kDeterministic;
  }
  if (phi::AllowTF32Cudnn != nullptr && phi::AllowTF32Cudnn()) result |= cuda::kTensorFloat32;
  return result;
}

// Paddle's allocator reuses memory in the order of the stream, so it may be released at once.
paddle::Tensor allocate(size_t bytes, const paddle::Tensor& x) {
  const int64_t size = bytes > 0 ? static_cast<int64_t>(bytes) : 1;
  return paddle::empty({size}, phi::DataType::UINT8, x.place());
}

}  // namespace

void cuda_forward(const Problem& problem, const ForwardTensors& tensors, const paddle::Tensor& x) {
  const CurrentDevice device(x);
  const int mode = flags();
  paddle::Tensor workspace = allocate(dcn_cuda_forward_workspace(&problem, &tensors, mode), x);
  require_success("the forward pass",
                  dcn_cuda_forward(&problem, &tensors, workspace.data(), x.stream(), mode));
}

void cuda_backward(const Problem& problem, const BackwardTensors& tensors,
                   const paddle::Tensor& x) {
  const CurrentDevice device(x);
  const int mode = flags();
  paddle::Tensor workspace = allocate(dcn_cuda_backward_workspace(&problem, &tensors, mode), x);
  require_success("the backward pass",
                  dcn_cuda_backward(&problem, &tensors, workspace.data(), x.stream(), mode));
}

}  // namespace binding
}  // namespace dcn

#endif  // PADDLE_DCN_WITH_CUDA

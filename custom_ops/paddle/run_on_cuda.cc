// Runs a problem on an NVIDIA GPU, with Paddle's stream and Paddle's memory.
#ifdef PADDLE_DCN_WITH_CUDA

// For Tensor::stream(). Under it Paddle's error macros need headers of cuBLAS, cuDNN and NCCL, so
// errors.h is not included here.
#define PADDLE_WITH_CUDA
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "../kernels/dcn.h"
#include "run_on_device.h"
#if PADDLE_DCN_PADDLE_MAJOR >= 3
#include "paddle/common/flags.h"
#else
#include "paddle/phi/core/flags.h"
#endif

// Weak, because a Paddle without CUDA lacks them: the library still loads there.
namespace phi {
__attribute__((weak)) bool AllowTF32Cudnn();
namespace backends {
namespace gpu {
__attribute__((weak)) int GetCurrentDeviceId();
__attribute__((weak)) void SetDeviceId(int device);
}  // namespace gpu
}  // namespace backends
}  // namespace phi

namespace dcn {
namespace binding {
namespace {

// The error's name and, where the library does not go with the machine, what to do.
std::string describe(cudaError_t error) {
  std::string text = dcn_cuda_error_name(error);
  int device = 0;
  cudaDeviceProp card;
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorInvalidPtx:
      if (cudaGetDevice(&device) != cudaSuccess ||
          cudaGetDeviceProperties(&card, device) != cudaSuccess) {
        return text;
      }
      return text + ": " + card.name + " has compute capability " + std::to_string(card.major) +
             "." + std::to_string(card.minor) + ", and this library was built for " +
             PADDLE_DCN_CUDA_CAPABILITIES +
             (card.major < 7 ? "; its kernels need 7.0 or later"
                             : "; build it with PADDLE_CUDA_ARCH_LIST=" +
                                   std::to_string(card.major) + "." + std::to_string(card.minor));
    case cudaErrorInsufficientDriver:
      return text + ": the driver is older than CUDA " + std::to_string(CUDART_VERSION / 1000) +
             "." + std::to_string(CUDART_VERSION % 1000 / 10) +
             ", with which this library was built; build it with the toolkit that Paddle was built "
             "with, named in CUDA_HOME";
    default:
      return text;
  }
}

void require_success(const char* what, int error) {
  if (error == cudaSuccess) return;
  report_device_error(std::string("paddle_dcn: ") + what + " failed with " +
                      describe(static_cast<cudaError_t>(error)));
}

// Makes a device the current one: of the CUDA runtime in this library, which is not Paddle's, and
// of Paddle, whose Tensor::stream() is the stream in use on the current device.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) : device_(device) {
    require_success("cudaGetDevice", cudaGetDevice(&before_));
    if (!kOfPaddle && device_ != before_) {
      report_device_error(
          "paddle_dcn: this Paddle does not let its current GPU be changed; make that of x the "
          "current one with paddle.device.set_device before the call");
    }
    require_success("cudaSetDevice", cudaSetDevice(device_));
    if (!kOfPaddle) return;
    before_ = phi::backends::gpu::GetCurrentDeviceId();
    if (before_ != device_) phi::backends::gpu::SetDeviceId(device_);
  }
  ~CurrentDevice() {
    if (!kOfPaddle) return;
    try {  // Paddle's is set also where it did not change: both share the driver's current context
      phi::backends::gpu::SetDeviceId(before_);
    } catch (...) {  // by an error of the call itself, which is reported
    }
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  // Whether float32 is multiplied in TF32: the rule of Paddle's own convolutions, which is cuDNN's.
  bool multiplies_in_tensor_float32() const {
    int major = 0;
    require_success("cudaDeviceGetAttribute",
                    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
    const char* const limit = std::getenv("NVIDIA_TF32_OVERRIDE");
    return major >= 8 && phi::AllowTF32Cudnn != nullptr && phi::AllowTF32Cudnn() &&
           (limit == nullptr || std::strcmp(limit, "0") != 0);
  }

 private:
  static const bool kOfPaddle;

  const int device_;
  int before_ = 0;
};

const bool CurrentDevice::kOfPaddle =
    phi::backends::gpu::GetCurrentDeviceId != nullptr && phi::backends::gpu::SetDeviceId != nullptr;

// What Paddle is told of its own convolutions holds for these.
int flags(const CurrentDevice& device) {
  int result = 0;
  const auto& all = phi::GetExportedFlagInfoMap();
  const auto deterministic = all.find("cudnn_deterministic");
  if (deterministic != all.end() && *static_cast<const bool*>(deterministic->second.value_ptr)) {
    result |= cuda::kDeterministic;
  }
  if (device.multiplies_in_tensor_float32()) result |= cuda::kTensorFloat32;
  return result;
}

// Paddle's allocator reuses memory in the order of the stream, so it may be released at once.
paddle::Tensor allocate(size_t bytes, const paddle::Tensor& x) {
  const int64_t size = bytes > 0 ? static_cast<int64_t>(bytes) : 1;
  return paddle::empty({size}, phi::DataType::UINT8, x.place());
}

}  // namespace

void cuda_forward(const Problem& problem, const ForwardTensors& tensors, const paddle::Tensor& x) {
  const CurrentDevice device(x.place().GetDeviceId());
  const int mode = flags(device);
  paddle::Tensor workspace = allocate(dcn_cuda_forward_workspace(&problem, &tensors, mode), x);
  require_success("the forward pass",
                  dcn_cuda_forward(&problem, &tensors, workspace.data(), x.stream(), mode));
}

void cuda_backward(const Problem& problem, const BackwardTensors& tensors,
                   const paddle::Tensor& x) {
  const CurrentDevice device(x.place().GetDeviceId());
  const int mode = flags(device);
  paddle::Tensor workspace = allocate(dcn_cuda_backward_workspace(&problem, &tensors, mode), x);
  require_success("the backward pass",
                  dcn_cuda_backward(&problem, &tensors, workspace.data(), x.stream(), mode));
}

}  // namespace binding
}  // namespace dcn

#endif  // PADDLE_DCN_WITH_CUDA

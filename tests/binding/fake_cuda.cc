// run_on_cuda.cc with a CUDA and a Paddle that do what a test says: it needs no GPU, nor two.
#define PADDLE_DCN_WITH_CUDA
#define PADDLE_DCN_CUDA_CAPABILITIES "8.0, 9.0+PTX"
#include <stdexcept>

#include "../../custom_ops/paddle/run_on_cuda.cc"

#define TEST_EXPORT extern "C" __attribute__((visibility("default")))

namespace {
std::string calls;  // that change a current device, in order
int current = 0;    // Paddle's
int major = 7, minor = 0;
bool tensor_float32 = true;
}  // namespace

// ---- CUDA

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  calls += "cuda " + std::to_string(device) + ", ";
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* card, int) {
  std::strcpy(card->name, "Tesla V100-SXM2-16GB");
  card->major = major;
  card->minor = minor;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = major;
  return cudaSuccess;
}

// ---- Paddle

namespace phi {
bool AllowTF32Cudnn() { return tensor_float32; }
namespace backends {
namespace gpu {
int GetCurrentDeviceId() { return current; }
void SetDeviceId(int device) {
  calls += "paddle " + std::to_string(device) + ", ";
  current = device;
}
}  // namespace gpu
}  // namespace backends
}  // namespace phi

// ---- the library

const char* dcn_cuda_error_name(int error) {
  return error == 209 ? "cudaErrorNoKernel..." : "cuda";
}
size_t dcn_cuda_forward_workspace(const dcn::Problem*, const dcn::ForwardTensors*, int) {
  return 0;
}
size_t dcn_cuda_backward_workspace(const dcn::Problem*, const dcn::BackwardTensors*, int) {
  return 0;
}
int dcn_cuda_forward(const dcn::Problem*, const dcn::ForwardTensors*, void*, void*, int) {
  return 0;
}
int dcn_cuda_backward(const dcn::Problem*, const dcn::BackwardTensors*, void*, void*, int) {
  return 0;
}
namespace dcn {
namespace binding {
void report_device_error(const std::string& message) { throw std::runtime_error(message); }
}  // namespace binding
}  // namespace dcn

// ---- for the test

// The message for a call that failed with this cudaError_t.
TEST_EXPORT const char* fake_error(int error, int compute_capability) {
  major = compute_capability / 10;
  minor = compute_capability % 10;
  static std::string message;
  message = "none";
  try {
    dcn::binding::require_success("the forward pass", error);
  } catch (const std::runtime_error& raised) {
    message = raised.what();
  }
  return message.c_str();
}

// What is made current around a call with tensors of a device, beginning with Paddle's `before`.
TEST_EXPORT const char* fake_call(int before, int device) {
  current = before;
  calls.clear();
  {
    const dcn::binding::CurrentDevice guard(device);
    calls += "call, ";
  }
  return calls.c_str();
}

// Whether float32 is then multiplied in TF32.
TEST_EXPORT bool fake_rule(int compute_capability, bool allowed) {
  major = compute_capability;
  tensor_float32 = allowed;
  const dcn::binding::CurrentDevice guard(0);
  return dcn::binding::flags(guard) & dcn::cuda::kTensorFloat32;
}

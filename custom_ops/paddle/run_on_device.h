// Runs a problem on the device its tensors are on.
#pragma once

#include <string>

#include "tensors.h"

namespace dcn {
namespace binding {

// The CPU's engine for a data type, chosen at the first call. The environment variable
// PADDLE_DCN_INSTRUCTION_SET names the highest one that may be taken.
int choose_engine(DataType dtype);

// Throws a Paddle error when this library has no kernels of the operator for the place.
void require_supported(const paddle::Tensor& x, Operator of);

// Tells the system that all of a new tensor will be written; on the CPU.
void will_write(const paddle::Tensor& tensor);

// `place` is any tensor of the call, which tells the device.
void forward(const Problem& problem, const ForwardTensors& tensors, const paddle::Tensor& place);
// The operator for inference, on the CPU. The weight is kept packed if it is `constant`.
void infer(const Problem& problem, ForwardTensors tensors, const paddle::Tensor& weight,
           bool constant);
void backward(const Problem& problem, const BackwardTensors& tensors, const paddle::Tensor& place);

#ifdef PADDLE_DCN_WITH_CUDA
void cuda_forward(const Problem& problem, const ForwardTensors& tensors, const paddle::Tensor& x);
void cuda_backward(const Problem& problem, const BackwardTensors& tensors, const paddle::Tensor& x);
[[noreturn]] void report_device_error(const std::string& message);
#endif

}  // namespace binding
}  // namespace dcn

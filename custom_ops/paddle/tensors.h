// From Paddle's tensors and attributes to the kernels' Problem: the last line of defence, which
// static programs and direct callers of the raw operators meet without Python's checks before it.
#pragma once

#include <string>
#include <vector>

#include "../kernels/problem.h"
#include "paddle/phi/api/all.h"

namespace dcn {
namespace binding {

using paddle::Tensor;

// The operators' attributes, in their order.
struct Attributes {
  std::vector<int> strides;    // vertical, horizontal
  std::vector<int> paddings;   // top, bottom, left, right
  std::vector<int> dilations;  // vertical, horizontal
  int groups;
  int deformable_groups;
  int im2col_step;          // 0: chosen by the kernels
  std::string data_format;  // "NCHW" or "NHWC"
  int wanted;               // a bit of Gradient for each gradient that backward computes
};

enum Gradient : int { kX = 1, kOffset = 2, kMask = 4, kWeight = 8, kBias = 16 };

// Inputs of one call. `mask` is null in v1, `bias` in backward, `grad_out` in forward.
struct Inputs {
  const Tensor* x;
  const Tensor* offset;
  const Tensor* mask;
  const Tensor* weight;
  const Tensor* bias;
  const Tensor* grad_out;
};

// Output pixels along one axis. All arguments come from 32-bit values or from tensor sizes.
inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad_before,
                           int64_t pad_after, int64_t dilation) {
  const int64_t room = size + pad_before + pad_after - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

// Checks every relation between the inputs that a kernel relies on. Throws a Paddle error that
// names the argument, what was expected and what came.
Problem make_problem(const Inputs& inputs, const Attributes& attributes);

// The same tensor, dense in its logical order. A predictor with oneDNN hands over tensors in its
// blocked layouts, which are copied; any other tensor is returned as it is.
Tensor plain(const Tensor& tensor, const Attributes& attributes);

std::vector<int64_t> output_shape(const Problem& problem);

}  // namespace binding
}  // namespace dcn

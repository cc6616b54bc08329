// From Paddle's tensors and attributes to the kernels' Problem: the last line of defence, which
// static programs and direct callers of the raw operators meet without Python's checks before it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../kernels/problem.h"
#include "paddle/phi/api/all.h"

namespace dcn {
namespace binding {

using paddle::Tensor;

enum class Operator { kForward, kBackward, kInference, kPlain };

struct Attributes {
  std::vector<int> strides{1, 1};    // vertical, horizontal
  std::vector<int> paddings;         // top, bottom, left, right
  std::vector<int> dilations{1, 1};  // vertical, horizontal
  int groups = 1;
  int deformable_groups = 1;
  int im2col_step = 0;               // 0: chosen by the kernels
  std::string data_format = "NCHW";  // or "NHWC"
  // A bit of Gradient for each gradient that backward computes; kUnitWeight, kPlanesLast.
  int gradient_mask = 0;
  // Of paddle_dcn_inference, all but the first two also of paddle_dcn_plain; see Problem.
  bool joined = false;
  float offset_bound = 0;                     // 0: none
  float negative_slope = 1, upper_bound = 0;  // 0: none, since JSON has no infinity
  bool constant = false;                      // the weight never changes

  // Calls f(name, member) in the operators' order. The names are part of saved programs, so
  // gradient_mask keeps the spelling that the first ones were saved with.
  template <typename F>
  void for_each(Operator of, const F& f) {
    const bool plain = of == Operator::kPlain;
    if (!plain) f("strides", strides);
    f("paddings", paddings);
    if (!plain) {
      f("dilations", dilations);
      f("groups", groups);
      f("deformable_groups", deformable_groups);
      f("im2col_step", im2col_step);
      f("data_format", data_format);
      f("wanted", gradient_mask);
      if (of != Operator::kInference) return;
      f("joined", joined);
      f("offset_bound", offset_bound);
    }
    f("negative_slope", negative_slope);
    f("upper_bound", upper_bound);
    f("constant", constant);
  }

  // From an operator's values. Throws a std::exception where one is missing or of another type.
  static Attributes read(const std::vector<paddle::any>& values, Operator of);

  // As Paddle registers them: "strides: std::vector<int>" and so on.
  static std::vector<std::string> declarations(Operator of);
};

enum Gradient : int { kX = 1, kOffset = 2, kMask = 4, kWeight = 8, kBias = 16 };
// The weight is of ones, and has no gradient. A bit beside those of the gradients, since a program
// that was saved before has no attribute for it. Whoever does not know it finds the ones.
constexpr int kUnitWeight = 32;
// Problem::planes_last, and without a mask packed_planes. No program is saved with it.
constexpr int kPlanesLast = 64;

// Inputs of one call. There is no `mask` in v1 or where it is joined, no `bias` in backward, no
// `grad_out` in forward. A plain convolution has neither `offset` nor `mask`, but may have
// `addend`. There may be `flow` for inference only.
struct Inputs {
  Tensor x, offset, mask, weight, bias, grad_out, addend, flow;
  bool x_channels_last = false;  // see Problem
};

// Whether a predictor with oneDNN has the tensor, of sizes [N, C, H, W], as [N, H, W, C] in memory.
bool has_channels_last(const Tensor& tensor);

// The tensor, dense in its logical order and with memory. A predictor with oneDNN hands over
// tensors in its blocked layouts, which are copied; any other is returned as it is.
Tensor undo_onednn_layout(const char* name, const Tensor& tensor, const Attributes& attributes);

// Checks every relation between the inputs, each from undo_onednn_layout, that a kernel relies on.
// Throws a Paddle error that names the argument, what was expected and what came.
Problem make_problem(const Inputs& inputs, const Attributes& attributes);

// Output pixels along one axis. All arguments come from 32-bit values or from tensor sizes.
inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad_before,
                           int64_t pad_after, int64_t dilation) {
  const int64_t room = size + pad_before + pad_after - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

// Of an image tensor.
inline std::array<int64_t, 4> image_shape(bool channels_last, int64_t batch, int64_t channels,
                                          int64_t height, int64_t width) {
  if (channels_last) return {batch, height, width, channels};
  return {batch, channels, height, width};
}

inline std::array<int64_t, 4> output_shape(const Problem& p) {
  return image_shape(p.channels_last, p.batch, p.out_channels, p.out_height, p.out_width);
}

}  // namespace binding
}  // namespace dcn

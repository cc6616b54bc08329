// Registration of paddle_dcn_v1 and paddle_dcn_v2 with their gradients.
//
// There are two operators because Paddle's static backward cannot handle an optional input (mask)
// that is absent. The inference functions below never throw: in a static program that would abort
// the process, so they answer -1 for what they cannot know and the kernels report the error.
#include <algorithm>
#include <new>
#include <stdexcept>

#include "dispatch.h"
#include "errors.h"
#include "paddle/phi/core/dense_tensor.h"
#include "tensors.h"
#if PADDLE_DCN_PADDLE_MAJOR >= 3
#include "spmd.h"
#define DCN_SPMD(rule) .SetInferSpmdFn(rule)
#else
#define DCN_SPMD(rule)
#endif

namespace dcn {
namespace binding {
namespace {

using Shape = std::vector<int64_t>;
using Context = paddle::CustomOpKernelContext;

// What leaves a kernel must be Paddle's own error: anything else ends the process.
template <typename Function>
void report_errors(const Function& function) {
  try {
    function();
  } catch (const PaddleError&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw_out_of_memory("paddle_dcn: out of memory");
  } catch (const std::out_of_range&) {  // of Context::InputAt
    throw_value_error(
        "paddle_dcn: an input is gone; a second backward through the same graph needs "
        "retain_graph=True in the first");
  } catch (const std::exception& error) {
    throw_value_error(std::string("paddle_dcn: ") + error.what());
  }
}

Attributes read_attributes(const Context& context) {
  return {context.AttrAt<std::vector<int>>(0),
          context.AttrAt<std::vector<int>>(1),
          context.AttrAt<std::vector<int>>(2),
          context.AttrAt<int>(3),
          context.AttrAt<int>(4),
          context.AttrAt<int>(5),
          context.AttrAt<std::string>(6),
          context.AttrAt<int>(7)};
}

// Paddle 2 takes a tensor without memory for a missing output, so an empty one gets some.
Tensor allocate(const Shape& shape, phi::DataType dtype, const phi::Place& place, bool zeros) {
  const bool empty = std::count(shape.begin(), shape.end(), 0) > 0;
  const Shape held = empty ? Shape{1} : shape;
  Tensor tensor = zeros ? paddle::zeros(held, dtype, place) : paddle::empty(held, dtype, place);
  if (!zeros) will_write(tensor);
  if (empty) static_cast<phi::DenseTensor&>(*tensor.impl()).Resize(common::make_ddim(shape));
  return tensor;
}

template <bool modulated>
void forward_kernel(Context* context) {
  report_errors([context] {
    const Attributes attributes = read_attributes(*context);
    size_t next = 0;
    const auto input = [&] { return plain(context->InputAt(next++), attributes); };
    const Tensor x = input(), offset = input(), mask = modulated ? input() : Tensor();
    const Tensor weight = input(), bias = input();
    require_supported(x);
    const Problem problem = make_problem(
        {&x, &offset, modulated ? &mask : nullptr, &weight, &bias, nullptr}, attributes);

    Tensor out = allocate(output_shape(problem), x.dtype(), x.place(), false);
    if (problem.batch > 0) {
      forward(problem,
              {x.data(), offset.data(), modulated ? mask.data() : nullptr, weight.data(),
               bias.data(), out.data()},
              x);
    }
    paddle::AssignTensorImpl(out, context->MutableOutputAt(0));
  });
}

template <bool modulated>
void backward_kernel(Context* context) {
  report_errors([context] {
    const Attributes attributes = read_attributes(*context);
    size_t next = 0;
    const auto input = [&] { return plain(context->InputAt(next++), attributes); };
    const Tensor x = input(), offset = input(), mask = modulated ? input() : Tensor();
    const Tensor weight = input(), grad_out = input();
    require_supported(x);
    const Problem problem = make_problem(
        {&x, &offset, modulated ? &mask : nullptr, &weight, nullptr, &grad_out}, attributes);

    // Every output must be a tensor, so a gradient nobody wants is zeros; the kernels see null.
    size_t output = 0;
    const auto gradient = [&](Gradient bit, const Shape& shape, phi::DataType dtype) -> void* {
      const bool computed = (attributes.wanted & bit) && problem.batch > 0;
      Tensor tensor = allocate(shape, dtype, x.place(), !computed);
      paddle::AssignTensorImpl(tensor, context->MutableOutputAt(output++));
      return computed ? tensor.data() : nullptr;
    };
    BackwardTensors tensors;
    tensors.x = x.data();
    tensors.offset = offset.data();
    tensors.mask = modulated ? mask.data() : nullptr;
    tensors.weight = weight.data();
    tensors.grad_out = grad_out.data();
    tensors.grad_x = gradient(kX, x.shape(), x.dtype());
    tensors.grad_offset = gradient(kOffset, offset.shape(), offset.dtype());
    tensors.grad_mask = modulated ? gradient(kMask, mask.shape(), mask.dtype()) : nullptr;
    tensors.grad_weight = gradient(kWeight, weight.shape(), weight.dtype());
    tensors.grad_bias = gradient(kBias, {problem.out_channels}, weight.dtype());
    const bool any = tensors.grad_x || tensors.grad_offset || tensors.grad_mask ||
                     tensors.grad_weight || tensors.grad_bias;
    if (any) backward(problem, tensors, x);
  });
}

// Without an operator of the second order Paddle would silently treat these gradients as constants.
void double_backward_kernel(Context*) {
  throw_not_implemented(
      "paddle_dcn: deform_conv2d has no second-order gradients; deform_conv2d_reference has them");
}

// A dimension of a static program, -1 where it is known only at run time.
int64_t size_at(const Shape& shape, size_t axis) { return axis < shape.size() ? shape[axis] : -1; }

template <bool modulated>
std::vector<Shape> forward_shape(const std::vector<Shape>& inputs,
                                 const std::vector<std::vector<Shape>>&,
                                 const std::vector<paddle::any>& attributes) {
  try {
    const auto strides = paddle::any_cast<std::vector<int>>(attributes.at(0));
    const auto paddings = paddle::any_cast<std::vector<int>>(attributes.at(1));
    const auto dilations = paddle::any_cast<std::vector<int>>(attributes.at(2));
    const bool last = paddle::any_cast<std::string>(attributes.at(6)) == "NHWC";
    const Shape& x = inputs.at(0);
    const Shape& weight = inputs.at(modulated ? 3 : 2);
    const auto out_size = [&](size_t axis) -> int64_t {
      const int64_t size = size_at(x, axis + (last ? 1 : 2));
      const int64_t kernel = size_at(weight, axis + 2);
      if (size < 0 || kernel < 0 || strides.at(axis) <= 0) return size_at(inputs.at(1), axis + 2);
      return output_size(size, kernel, strides[axis], paddings.at(2 * axis),
                         paddings.at(2 * axis + 1), dilations.at(axis));
    };
    const int64_t batch = size_at(x, 0), filters = size_at(weight, 0);
    const int64_t height = out_size(0), width = out_size(1);
    return {last ? Shape{batch, height, width, filters} : Shape{batch, filters, height, width}};
  } catch (const std::exception&) {
    return {{-1, -1, -1, -1}};
  }
}

template <bool modulated>
std::vector<Shape> backward_shape(const std::vector<Shape>& inputs,
                                  const std::vector<std::vector<Shape>>&,
                                  const std::vector<paddle::any>&) {
  std::vector<Shape> gradients(inputs.begin(), inputs.begin() + (modulated ? 4 : 3));
  gradients.push_back({size_at(gradients.back(), 0)});
  return gradients;
}

std::vector<phi::DataType> forward_dtype(const std::vector<phi::DataType>& inputs,
                                         const std::vector<std::vector<phi::DataType>>&,
                                         const std::vector<paddle::any>&) {
  return {inputs.front()};
}

template <bool modulated>
std::vector<phi::DataType> backward_dtype(const std::vector<phi::DataType>& inputs,
                                          const std::vector<std::vector<phi::DataType>>&,
                                          const std::vector<paddle::any>&) {
  std::vector<phi::DataType> gradients(inputs.begin(), inputs.begin() + (modulated ? 4 : 3));
  gradients.push_back(gradients.back());
  return gradients;
}

std::vector<std::string> attribute_names() {
  return {"strides: std::vector<int>",   "paddings: std::vector<int>",
          "dilations: std::vector<int>", "groups: int",
          "deformable_groups: int",      "im2col_step: int",
          "data_format: std::string",    "wanted: int"};
}

}  // namespace
}  // namespace binding
}  // namespace dcn

using paddle::Grad;
namespace binding = dcn::binding;

PD_BUILD_OP(paddle_dcn_v1)
    .Inputs({"x", "offset", "weight", "bias"})
    .Outputs({"out"})
    .Attrs(binding::attribute_names())
    .SetKernelFn(binding::forward_kernel<false>)
    .SetInferShapeFn(binding::forward_shape<false>)
    .SetInferDtypeFn(binding::forward_dtype) DCN_SPMD(binding::forward_spmd<false>);

PD_BUILD_GRAD_OP(paddle_dcn_v1)
    .Inputs({"x", "offset", "weight", Grad("out")})
    .Outputs({Grad("x"), Grad("offset"), Grad("weight"), Grad("bias")})
    .Attrs(binding::attribute_names())
    .SetKernelFn(binding::backward_kernel<false>)
    .SetInferShapeFn(binding::backward_shape<false>)
    .SetInferDtypeFn(binding::backward_dtype<false>) DCN_SPMD(binding::backward_spmd<false>);

PD_BUILD_OP(paddle_dcn_v2)
    .Inputs({"x", "offset", "mask", "weight", "bias"})
    .Outputs({"out"})
    .Attrs(binding::attribute_names())
    .SetKernelFn(binding::forward_kernel<true>)
    .SetInferShapeFn(binding::forward_shape<true>)
    .SetInferDtypeFn(binding::forward_dtype) DCN_SPMD(binding::forward_spmd<true>);

PD_BUILD_GRAD_OP(paddle_dcn_v2)
    .Inputs({"x", "offset", "mask", "weight", Grad("out")})
    .Outputs({Grad("x"), Grad("offset"), Grad("mask"), Grad("weight"), Grad("bias")})
    .Attrs(binding::attribute_names())
    .SetKernelFn(binding::backward_kernel<true>)
    .SetInferShapeFn(binding::backward_shape<true>)
    .SetInferDtypeFn(binding::backward_dtype<true>) DCN_SPMD(binding::backward_spmd<true>);

PD_BUILD_DOUBLE_GRAD_OP(paddle_dcn_v1)
    .Inputs({"x", Grad("out"), Grad(Grad("x"))})
    .Outputs({Grad(Grad("out"))})
    .SetKernelFn(binding::double_backward_kernel);

PD_BUILD_DOUBLE_GRAD_OP(paddle_dcn_v2)
    .Inputs({"x", Grad("out"), Grad(Grad("x"))})
    .Outputs({Grad(Grad("out"))})
    .SetKernelFn(binding::double_backward_kernel);

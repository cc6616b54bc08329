// Registration of paddle_dcn_v1 and paddle_dcn_v2 with their gradients, and of
// paddle_dcn_inference and paddle_dcn_plain.
//
// v1 and v2 are two because Paddle's static backward cannot handle an optional input (mask) that is
// absent; the others have no backward. The functions that infer shapes never throw: in a static
// program that would abort the process, so they answer -1 for what they cannot know and the kernels
// report the error.
#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <vector>

#include "double_backward.h"
#include "errors.h"
#include "paddle/phi/core/dense_tensor.h"
#include "run_on_device.h"
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
    PADDLE_THROW(phi::errors::ResourceExhausted("paddle_dcn: out of memory"));
  } catch (const std::out_of_range&) {  // which only Context::InputAt throws
    throw_value_error(
        "paddle_dcn: an input is gone; a second backward through the same graph needs "
        "retain_graph=True in the first");
  } catch (const std::exception& error) {
    // Of Paddle's allocators for GPUs; the headers of Paddle 2 do not have it.
    if (std::strstr(typeid(error).name(), "BadAlloc") != nullptr) {
      PADDLE_THROW(phi::errors::ResourceExhausted("paddle_dcn: out of memory: %s", error.what()));
    }
    throw_value_error(std::string("paddle_dcn: ") + error.what());
  }
}

Inputs read_inputs(const Context& context, const Attributes& attributes, Operator of,
                   bool modulated) {
  const auto input = [&](const char* name, size_t index) {
    return undo_onednn_layout(name, context.InputAt(index), attributes);
  };
  Inputs result;
  const Tensor& x = context.InputAt(0);
  const bool infers = of == Operator::kInference || of == Operator::kPlain;
  result.x_channels_last = infers && attributes.data_format == "NCHW" && has_channels_last(x);
  result.x = result.x_channels_last ? x : input("x", 0);
  if (of == Operator::kPlain) {
    result.weight = input("weight", 1);
    result.bias = input("bias", 2);
    if (context.OptionalInputAt(3).get_ptr() != nullptr) result.addend = input("addend", 3);
    require_supported(result.x, of);
    return result;
  }
  result.offset = input("offset", 1);
  size_t next = 2;
  if (modulated) result.mask = input("mask", next);
  next += modulated || of == Operator::kInference;
  result.weight = input("weight", next);
  const bool backward = of == Operator::kBackward;
  (backward ? result.grad_out : result.bias) = input(backward ? "out@GRAD" : "bias", next + 1);
  if (of == Operator::kInference && context.OptionalInputAt(5).get_ptr() != nullptr) {
    result.flow = input("flow", 5);
  }
  require_supported(result.x, of);
  return result;
}

const void* data(const Tensor& tensor) { return tensor.defined() ? tensor.data() : nullptr; }

// Paddle 2 takes a tensor without memory for a missing output, so an empty one gets some.
Tensor allocate(const Shape& shape, phi::DataType dtype, const phi::Place& place, bool zeros) {
  const bool empty = std::count(shape.begin(), shape.end(), 0) > 0;
  const Shape held = empty ? Shape{1} : shape;
  Tensor tensor = zeros ? paddle::zeros(held, dtype, place) : paddle::empty(held, dtype, place);
  if (!zeros) will_write(tensor);
  if (empty) static_cast<phi::DenseTensor&>(*tensor.impl()).Resize(common::make_ddim(shape));
  return tensor;
}

void compute(Context* context, Operator of, bool modulated) {
  const Attributes attributes = Attributes::read(context->Attrs(), of);
  const Inputs in = read_inputs(*context, attributes, of, modulated);
  const Problem problem = make_problem(in, attributes);
  const auto shape = output_shape(problem);
  Tensor out = allocate({shape.begin(), shape.end()}, in.x.dtype(), in.x.place(), false);
  if (problem.batch > 0) {
    ForwardTensors tensors;
    tensors.x = in.x.data();
    tensors.offset = data(in.offset);
    tensors.mask = data(in.mask);
    tensors.weight = in.weight.data();
    tensors.bias = in.bias.data();
    tensors.addend = data(in.addend);
    tensors.flow = data(in.flow);
    tensors.out = out.data();
    if (of != Operator::kForward) {
      infer(problem, tensors, in.weight, attributes.constant);
    } else {
      forward(problem, tensors, in.x);
    }
  }
  paddle::AssignTensorImpl(out, context->MutableOutputAt(0));
}

template <bool modulated>
void forward_kernel(Context* context) {
  report_errors([context] { compute(context, Operator::kForward, modulated); });
}

void inference_kernel(Context* context) {
  report_errors([context] {
    const bool modulated = context->OptionalInputAt(2).get_ptr() != nullptr;
    compute(context, Operator::kInference, modulated);
  });
}

void plain_kernel(Context* context) {
  report_errors([context] { compute(context, Operator::kPlain, false); });
}

template <bool modulated>
void backward_kernel(Context* context) {
  report_errors([context] {
    const Attributes attributes = Attributes::read(context->Attrs(), Operator::kBackward);
    const Inputs in = read_inputs(*context, attributes, Operator::kBackward, modulated);
    const Problem problem = make_problem(in, attributes);

    // Every output must be a tensor, so a gradient nobody wants is zeros; the kernels see null.
    const int wanted = attributes.gradient_mask & ~(problem.weighted ? 0 : kWeight);
    size_t output = 0;
    bool any = false;
    const auto gradient = [&](Gradient bit, const Tensor& of, const Shape& shape) -> void* {
      const bool computed = (wanted & bit) && problem.batch > 0;
      any |= computed;
      Tensor tensor = allocate(shape, of.dtype(), in.x.place(), !computed);
      paddle::AssignTensorImpl(tensor, context->MutableOutputAt(output++));
      return computed ? tensor.data() : nullptr;
    };
    BackwardTensors tensors;
    tensors.x = in.x.data();
    tensors.offset = in.offset.data();
    tensors.mask = data(in.mask);
    tensors.weight = in.weight.data();
    tensors.grad_out = in.grad_out.data();
    tensors.grad_x = gradient(kX, in.x, in.x.shape());
    tensors.grad_offset = gradient(kOffset, in.offset, in.offset.shape());
    tensors.grad_mask = modulated ? gradient(kMask, in.mask, in.mask.shape()) : nullptr;
    tensors.grad_weight = gradient(kWeight, in.weight, in.weight.shape());
    tensors.grad_bias = gradient(kBias, in.weight, {problem.out_channels});
    if (any) backward(problem, tensors, in.x);
  });
}

// Without these operators Paddle would silently treat the gradients as constants.
void inference_backward_kernel(Context*) {
  PADDLE_THROW(
      phi::errors::Unimplemented("paddle_dcn: a model converted for inference has no gradients"));
}

template <bool modulated>
void double_backward_kernel(Context* context) {
  report_errors([context] {
    const Attributes attributes = Attributes::read(context->Attrs(), Operator::kBackward);
    const Inputs in = read_inputs(*context, attributes, Operator::kBackward, modulated);
    size_t input = modulated ? 5 : 4;
    // Of a gradient that nobody differentiates, there is none.
    const auto factor = [&] {
      const Tensor& tensor = context->InputAt(input++);
      if (!tensor.initialized()) return Tensor();
      return undo_onednn_layout("factor", tensor, attributes);
    };
    Derivatives factors;
    factors.x = factor();
    factors.offset = factor();
    if (modulated) factors.mask = factor();
    factors.weight = factor();
    factors.bias = factor();
    const Derivatives result = double_backward(in, factors, attributes);
    size_t output = 0;
    const auto assign = [&](const Tensor& tensor) {
      paddle::AssignTensorImpl(tensor, context->MutableOutputAt(output++));
    };
    assign(result.x);
    assign(result.offset);
    if (modulated) assign(result.mask);
    assign(result.weight);
    assign(result.grad_out);
  });
}

// A dimension of a static program, -1 where it is known only at run time.
int64_t size_at(const Shape& shape, size_t axis) { return axis < shape.size() ? shape[axis] : -1; }

template <bool modulated, Operator of = Operator::kForward>
std::vector<Shape> forward_shape(const std::vector<Shape>& inputs,
                                 const std::vector<std::vector<Shape>>&,
                                 const std::vector<paddle::any>& attributes) {
  try {
    const Attributes a = Attributes::read(attributes, of);
    const bool last = a.data_format == "NHWC";
    const Shape &x = inputs.at(0), &offset = inputs.at(1), &weight = inputs.at(modulated ? 3 : 2);
    const auto out_size = [&](size_t axis) {
      const int64_t size = size_at(x, axis + (last ? 1 : 2));
      const int64_t kernel = size_at(weight, axis + 2);
      if (size < 0 || kernel < 0 || a.strides.at(axis) <= 0) {
        return size_at(offset, axis + (a.gradient_mask & kPlanesLast ? 1 : 2));
      }
      return output_size(size, kernel, a.strides[axis], a.paddings.at(2 * axis),
                         a.paddings.at(2 * axis + 1), a.dilations.at(axis));
    };
    const auto out = image_shape(last, size_at(x, 0), size_at(weight, 0), out_size(0), out_size(1));
    return {{out.begin(), out.end()}};
  } catch (const std::exception&) {
    return {{-1, -1, -1, -1}};
  }
}

std::vector<Shape> plain_shape(const std::vector<Shape>& inputs,
                               const std::vector<std::vector<Shape>>&,
                               const std::vector<paddle::any>& attributes) {
  try {
    const Attributes a = Attributes::read(attributes, Operator::kPlain);
    const Shape &x = inputs.at(0), &weight = inputs.at(1);
    const auto out_size = [&](size_t axis) {
      const int64_t size = size_at(x, axis + 2), kernel = size_at(weight, axis + 2);
      if (size < 0 || kernel < 0) return int64_t{-1};
      return output_size(size, kernel, 1, a.paddings.at(2 * axis), a.paddings.at(2 * axis + 1), 1);
    };
    return {{size_at(x, 0), size_at(weight, 0), out_size(0), out_size(1)}};
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

// Of x, offset, mask, weight and out's gradient: as these inputs.
template <bool modulated>
std::vector<Shape> double_backward_shape(const std::vector<Shape>& inputs,
                                         const std::vector<std::vector<Shape>>&,
                                         const std::vector<paddle::any>&) {
  return {inputs.begin(), inputs.begin() + (modulated ? 5 : 4)};
}
template <bool modulated>
std::vector<phi::DataType> double_backward_dtype(const std::vector<phi::DataType>& inputs,
                                                 const std::vector<std::vector<phi::DataType>>&,
                                                 const std::vector<paddle::any>&) {
  return {inputs.begin(), inputs.begin() + (modulated ? 5 : 4)};
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

}  // namespace
}  // namespace binding
}  // namespace dcn

using paddle::Grad;
using paddle::New;
namespace binding = dcn::binding;
using dcn::binding::Attributes;
using dcn::binding::Operator;

PD_BUILD_OP(paddle_dcn_v1)
    .Inputs({"x", "offset", "weight", "bias"})
    .Outputs({"out"})
    .Attrs(Attributes::declarations(Operator::kForward))
    .SetKernelFn(binding::forward_kernel<false>)
    .SetInferShapeFn(binding::forward_shape<false>)
    .SetInferDtypeFn(binding::forward_dtype) DCN_SPMD(binding::forward_spmd<false>);

PD_BUILD_GRAD_OP(paddle_dcn_v1)
    .Inputs({"x", "offset", "weight", Grad("out")})
    .Outputs({Grad("x"), Grad("offset"), Grad("weight"), Grad("bias")})
    .Attrs(Attributes::declarations(Operator::kForward))
    .SetKernelFn(binding::backward_kernel<false>)
    .SetInferShapeFn(binding::backward_shape<false>)
    .SetInferDtypeFn(binding::backward_dtype<false>) DCN_SPMD(binding::backward_spmd<false>);

PD_BUILD_OP(paddle_dcn_v2)
    .Inputs({"x", "offset", "mask", "weight", "bias"})
    .Outputs({"out"})
    .Attrs(Attributes::declarations(Operator::kForward))
    .SetKernelFn(binding::forward_kernel<true>)
    .SetInferShapeFn(binding::forward_shape<true>)
    .SetInferDtypeFn(binding::forward_dtype) DCN_SPMD(binding::forward_spmd<true>);

PD_BUILD_GRAD_OP(paddle_dcn_v2)
    .Inputs({"x", "offset", "mask", "weight", Grad("out")})
    .Outputs({Grad("x"), Grad("offset"), Grad("mask"), Grad("weight"), Grad("bias")})
    .Attrs(Attributes::declarations(Operator::kForward))
    .SetKernelFn(binding::backward_kernel<true>)
    .SetInferShapeFn(binding::backward_shape<true>)
    .SetInferDtypeFn(binding::backward_dtype<true>) DCN_SPMD(binding::backward_spmd<true>);

PD_BUILD_DOUBLE_GRAD_OP(paddle_dcn_v1)
    .Inputs({"x", "offset", "weight", Grad("out"), Grad(Grad("x")), Grad(Grad("offset")),
             Grad(Grad("weight")), Grad(Grad("bias"))})
    .Outputs({New(Grad("x")), New(Grad("offset")), New(Grad("weight")), Grad(Grad("out"))})
    .Attrs(Attributes::declarations(Operator::kBackward))
    .SetKernelFn(binding::double_backward_kernel<false>)
    .SetInferShapeFn(binding::double_backward_shape<false>)
    .SetInferDtypeFn(binding::double_backward_dtype<false>) DCN_SPMD(binding::double_backward_spmd);

PD_BUILD_DOUBLE_GRAD_OP(paddle_dcn_v2)
    .Inputs({"x", "offset", "mask", "weight", Grad("out"), Grad(Grad("x")), Grad(Grad("offset")),
             Grad(Grad("mask")), Grad(Grad("weight")), Grad(Grad("bias"))})
    .Outputs({New(Grad("x")), New(Grad("offset")), New(Grad("mask")), New(Grad("weight")),
              Grad(Grad("out"))})
    .Attrs(Attributes::declarations(Operator::kBackward))
    .SetKernelFn(binding::double_backward_kernel<true>)
    .SetInferShapeFn(binding::double_backward_shape<true>)
    .SetInferDtypeFn(binding::double_backward_dtype<true>) DCN_SPMD(binding::double_backward_spmd);

// Forward alone, with what the layers around a convolution do: see Problem. Mask and flow may be
// absent.
PD_BUILD_OP(paddle_dcn_inference)
    .Inputs({"x", "offset", paddle::Optional("mask"), "weight", "bias", paddle::Optional("flow")})
    .Outputs({"out"})
    .Attrs(Attributes::declarations(Operator::kInference))
    .SetKernelFn(binding::inference_kernel)
    .SetInferShapeFn(binding::forward_shape<true, Operator::kInference>)
    .SetInferDtypeFn(binding::forward_dtype);

PD_BUILD_GRAD_OP(paddle_dcn_inference)
    .Inputs({"x", Grad("out")})
    .Outputs({Grad("x")})
    .SetKernelFn(binding::inference_backward_kernel);

// A plain 3x3 convolution, with what stands behind it. The addend may be absent.
PD_BUILD_OP(paddle_dcn_plain)
    .Inputs({"x", "weight", "bias", paddle::Optional("addend")})
    .Outputs({"out"})
    .Attrs(Attributes::declarations(Operator::kPlain))
    .SetKernelFn(binding::plain_kernel)
    .SetInferShapeFn(binding::plain_shape)
    .SetInferDtypeFn(binding::forward_dtype);

PD_BUILD_GRAD_OP(paddle_dcn_plain)
    .Inputs({"x", Grad("out")})
    .Outputs({Grad("x")})
    .SetKernelFn(binding::inference_backward_kernel);

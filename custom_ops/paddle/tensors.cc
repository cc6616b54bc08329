// Unpacking of Paddle's tensors: checks, dense copies, the Problem.
#include "tensors.h"

#include <sstream>

#include "errors.h"
#include "paddle/phi/core/dense_tensor.h"

// Paddle ships only a stub of the header that declares this. It is weak because a Paddle built
// without oneDNN lacks it, and then never hands out the layout that needs it.
namespace phi {
namespace funcs {
__attribute__((weak)) void TransDataLayoutFromOneDNN(DataLayout in_layout, DataLayout out_layout,
                                                     const DenseTensor& in, DenseTensor* out,
                                                     Place place, bool always_copy);
}  // namespace funcs
}  // namespace phi

namespace dcn {
namespace binding {
namespace {

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

template <typename... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) throw_value_error(text(parts...));
}

// What a message may say of a tensor, put into words only if there is a message.
struct ShapeOf {
  const Tensor& tensor;
};
std::ostream& operator<<(std::ostream& stream, ShapeOf shape) {
  const char* before = "[";
  for (const int64_t size : shape.tensor.shape()) {
    stream << before << size;
    before = ", ";
  }
  return stream << (shape.tensor.dims().size() == 0 ? "[]" : "]");
}
struct DeviceOf {
  const Tensor& tensor;
};
std::ostream& operator<<(std::ostream& stream, DeviceOf device) {
  return stream << device.tensor.place().DebugString();
}

// Expected against found, one dimension at a time: `formula` says where the number comes from.
template <typename... Formula>
void require_size(const char* name, int64_t found, int64_t expected, const char* dimension,
                  const Formula&... formula) {
  require(found == expected, name, ": expected ", expected, " ", dimension, " (", formula...,
          "), got ", found);
}

void check_attributes(const Attributes& a) {
  require(a.strides.size() == 2, "strides: expected 2 ints, got ", a.strides.size());
  require(a.paddings.size() == 4, "paddings: expected 4 ints (top, bottom, left, right), got ",
          a.paddings.size());
  require(a.dilations.size() == 2, "dilations: expected 2 ints, got ", a.dilations.size());
  for (const int stride : a.strides) {
    require(stride > 0, "strides: expected positive ints, got ", stride);
  }
  for (const int padding : a.paddings) {
    require(padding >= 0, "paddings: expected ints of at least 0, got ", padding);
  }
  for (const int dilation : a.dilations) {
    require(dilation > 0, "dilations: expected positive ints, got ", dilation);
  }
  require(a.groups > 0, "groups: expected a positive int, got ", a.groups);
  require(a.deformable_groups > 0, "deformable_groups: expected a positive int, got ",
          a.deformable_groups);
  require(a.im2col_step >= 0, "im2col_step: expected a positive int, or 0 for the default, got ",
          a.im2col_step);
  require(a.data_format == "NCHW" || a.data_format == "NHWC",
          "data_format: expected \"NCHW\" or \"NHWC\", got \"", a.data_format, "\"");
}

void check_tensor(const char* name, const Tensor& tensor, size_t rank, const Tensor& x) {
  require(tensor.is_dense_tensor(), name, ": expected a dense tensor");
  // Paddle copies strided views before it calls an operator.
  require(static_cast<const phi::DenseTensor&>(*tensor.impl()).meta().is_contiguous(), name,
          ": expected contiguous memory");
  require(tensor.dims().size() == static_cast<int>(rank), name, ": expected ", rank,
          " dimensions, got shape ", ShapeOf{tensor});
  require(tensor.place() == x.place(), name, ": expected a tensor on x's device ", DeviceOf{x},
          ", got one on ", DeviceOf{tensor});
}

DataType element_type(const char* name, const Tensor& tensor) {
  switch (tensor.dtype()) {
    case phi::DataType::FLOAT16:
      return DataType::kFloat16;
    case phi::DataType::BFLOAT16:
      return DataType::kBFloat16;
    case phi::DataType::FLOAT32:
      return DataType::kFloat32;
    case phi::DataType::FLOAT64:
      return DataType::kFloat64;
    default:
      throw_type_error(text(name, ": expected float16, bfloat16, float32 or float64, got ",
                            phi::DataTypeToString(tensor.dtype())));
  }
}

void require_type(const char* name, const Tensor& tensor, const Tensor& like, const char* what) {
  if (tensor.dtype() == like.dtype()) return;
  throw_type_error(text(name, ": expected ", phi::DataTypeToString(like.dtype()), " like ", what,
                        ", got ", phi::DataTypeToString(tensor.dtype())));
}

}  // namespace

Problem make_problem(const Inputs& in, const Attributes& a) {
  check_attributes(a);
  const Tensor& x = *in.x;
  const Tensor& weight = *in.weight;
  check_tensor("x", x, 4, x);
  check_tensor("offset", *in.offset, 4, x);
  if (in.mask) check_tensor("mask", *in.mask, 4, x);
  check_tensor("weight", weight, 4, x);
  if (in.bias) check_tensor("bias", *in.bias, 1, x);
  if (in.grad_out) check_tensor("out@GRAD", *in.grad_out, 4, x);

  Problem p;
  p.channels_last = a.data_format == "NHWC";
  p.modulated = in.mask != nullptr;
  p.dtype = element_type("x", x);
  require_type("weight", weight, x, "x");
  if (in.bias) require_type("bias", *in.bias, x, "x");
  if (in.grad_out) require_type("out@GRAD", *in.grad_out, x, "x");
  p.offset_dtype = element_type("offset", *in.offset);
  if (p.offset_dtype != DataType::kFloat32) require_type("offset", *in.offset, x, "x, or float32");
  if (in.mask) require_type("mask", *in.mask, *in.offset, "offset");

  const auto& x_dims = x.dims();
  p.batch = x_dims[0];
  p.channels = x_dims[p.channels_last ? 3 : 1];
  p.height = x_dims[p.channels_last ? 1 : 2];
  p.width = x_dims[p.channels_last ? 2 : 3];
  p.out_channels = weight.dims()[0];
  p.kernel_h = weight.dims()[2];
  p.kernel_w = weight.dims()[3];
  p.stride_h = a.strides[0];
  p.stride_w = a.strides[1];
  p.pad_top = a.paddings[0];
  p.pad_bottom = a.paddings[1];
  p.pad_left = a.paddings[2];
  p.pad_right = a.paddings[3];
  p.dilation_h = a.dilations[0];
  p.dilation_w = a.dilations[1];
  p.groups = a.groups;
  p.deformable_groups = a.deformable_groups;
  p.im2col_step = a.im2col_step;

  require(p.channels > 0 && p.height > 0 && p.width > 0,
          "x: expected a positive number of channels, rows and columns, got shape ", ShapeOf{x});
  require(p.out_channels > 0 && p.kernel_h > 0 && p.kernel_w > 0,
          "weight: expected positive sizes, got shape ", ShapeOf{weight});
  require(p.channels % p.groups == 0, "groups: expected a divisor of the ", p.channels,
          " channels of x, got ", p.groups);
  require(p.out_channels % p.groups == 0, "groups: expected a divisor of the ", p.out_channels,
          " filters of weight, got ", p.groups);
  require(p.channels % p.deformable_groups == 0, "deformable_groups: expected a divisor of the ",
          p.channels, " channels of x, got ", p.deformable_groups);
  require_size("weight", weight.dims()[1], p.group_channels(), "channels", "channels of x ",
               p.channels, " / groups ", p.groups);

  p.out_height =
      output_size(p.height, p.kernel_h, p.stride_h, p.pad_top, p.pad_bottom, p.dilation_h);
  p.out_width = output_size(p.width, p.kernel_w, p.stride_w, p.pad_left, p.pad_right, p.dilation_w);
  require(p.out_height > 0 && p.out_width > 0, "x: expected at least the dilated kernel's ",
          p.dilation_h * (p.kernel_h - 1) + 1, "x", p.dilation_w * (p.kernel_w - 1) + 1,
          " pixels after padding, got ", p.height + p.pad_top + p.pad_bottom, "x",
          p.width + p.pad_left + p.pad_right);
  int64_t out_elements;
  require(!__builtin_mul_overflow(p.out_height, p.out_width, &out_elements) &&
              !__builtin_mul_overflow(out_elements, p.out_channels, &out_elements) &&
              !__builtin_mul_overflow(out_elements, p.batch, &out_elements),
          "x: expected an output of less than 2^63 elements");

  const auto check_field = [&](const char* name, const Tensor& field, int64_t per_tap,
                               const char* formula) {
    require_size(name, field.dims()[0], p.batch, "images", "batch of x");
    // Divided rather than multiplied: the product of the attributes may not fit 64 bits.
    const int64_t found = field.dims()[1];
    const int64_t taps = p.kernel_h * p.kernel_w;
    const bool fits = found % per_tap == 0 && found / per_tap % taps == 0 &&
                      found / per_tap / taps == p.deformable_groups;
    require(fits, name, ": expected ", per_tap * p.deformable_groups * taps, " channels (", formula,
            p.deformable_groups, " * kernel ", p.kernel_h, "x", p.kernel_w, "), got ", found);
    require_size(name, field.dims()[2], p.out_height, "rows", "output height");
    require_size(name, field.dims()[3], p.out_width, "columns", "output width");
  };
  check_field("offset", *in.offset, 2, "2 * deformable_groups ");
  if (in.mask) check_field("mask", *in.mask, 1, "deformable_groups ");
  if (in.bias) {
    require_size("bias", in.bias->dims()[0], p.out_channels, "elements", "filters of weight");
  }
  if (in.grad_out) {
    require(in.grad_out->shape() == output_shape(p), "out@GRAD: expected the output's shape, got ",
            ShapeOf{*in.grad_out});
  }
  return p;
}

Tensor plain(const Tensor& tensor, const Attributes& attributes) {
  if (tensor.layout() != phi::DataLayout::ONEDNN) return tensor;
  // oneDNN permutes the sizes of a channels-last model's tensors, but not of all, and does not say
  // of which.
  require(attributes.data_format == "NCHW",
          "data_format: expected \"NCHW\" in a program that runs with oneDNN, got \"",
          attributes.data_format, "\" (turn oneDNN off in the predictor's configuration)");
  auto copy = std::make_shared<phi::DenseTensor>();
  phi::funcs::TransDataLayoutFromOneDNN(phi::DataLayout::ONEDNN, phi::DataLayout::NCHW,
                                        static_cast<const phi::DenseTensor&>(*tensor.impl()),
                                        copy.get(), phi::CPUPlace(), false);
  return Tensor(copy);
}

std::vector<int64_t> output_shape(const Problem& p) {
  if (p.channels_last) return {p.batch, p.out_height, p.out_width, p.out_channels};
  return {p.batch, p.out_channels, p.out_height, p.out_width};
}

}  // namespace binding
}  // namespace dcn

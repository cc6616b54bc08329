// Unpacking of Paddle's tensors and attributes: checks, dense copies, the Problem.
#include "tensors.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <memory>
#include <sstream>
#include <type_traits>

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

// Numbers in brackets, put into words only if there is a message.
template <typename T>
struct List {
  const T* data;
  size_t size;
};
template <typename T>
std::ostream& operator<<(std::ostream& stream, const List<T>& list) {
  stream << "[";
  for (size_t i = 0; i < list.size; ++i) stream << (i > 0 ? ", " : "") << list.data[i];
  return stream << "]";
}
List<int64_t> shape_of(const Tensor& tensor) {
  return {tensor.dims().Get(), static_cast<size_t>(tensor.dims().size())};
}

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

// Pixels are found by 32-bit numbers, see Sample.
constexpr int64_t kMaxSide = std::numeric_limits<int32_t>::max() - 1;

// -1, which no size is, where the product leaves 64 bits.
int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(result, size, &result)) return -1;
  }
  return result;
}

void check_attributes(const Attributes& a) {
  const auto check_list = [](const char* name, const std::vector<int>& list, size_t count,
                             int lowest) {
    require(list.size() == count && *std::min_element(list.begin(), list.end()) >= lowest, name,
            ": expected ", count, " ints of at least ", lowest, ", got ",
            List<int>{list.data(), list.size()});
  };
  check_list("strides", a.strides, 2, 1);
  check_list("paddings", a.paddings, 4, 0);
  check_list("dilations", a.dilations, 2, 1);
  const auto check_int = [](const char* name, int value, int lowest) {
    require(value >= lowest, name, ": expected an int of at least ", lowest, ", got ", value);
  };
  check_int("groups", a.groups, 1);
  check_int("deformable_groups", a.deformable_groups, 1);
  check_int("im2col_step", a.im2col_step, 0);
  require(a.data_format == "NCHW" || a.data_format == "NHWC",
          "data_format: expected \"NCHW\" or \"NHWC\", got \"", a.data_format, "\"");
  require(a.offset_bound >= 0, "offset_bound: expected 0 or more, got ", a.offset_bound);
  require(a.upper_bound >= 0, "upper_bound: expected 0 or more, got ", a.upper_bound);
}

DataType element_type(const char* name, phi::DataType dtype) {
  switch (dtype) {
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
                            phi::DataTypeToString(dtype)));
  }
}

// The one message of a tensor that does not fit x and the attributes.
template <size_t rank>
void check_tensor(const char* name, const Tensor& tensor, const phi::Place& place,
                  phi::DataType dtype, const std::array<int64_t, rank>& shape) {
  const List<int64_t> found = shape_of(tensor);
  const bool fits = found.size == rank && std::equal(shape.begin(), shape.end(), found.data);
  if (fits && tensor.dtype() == dtype && tensor.place() == place) return;
  const std::string message =
      text(name, ": expected ", phi::DataTypeToString(dtype), " ", List<int64_t>{&shape[0], rank},
           " on ", place.DebugString(), ", got ", phi::DataTypeToString(tensor.dtype()), " ", found,
           " on ", tensor.place().DebugString());
  if (tensor.dtype() != dtype) throw_type_error(message);
  throw_value_error(message);
}

}  // namespace

Attributes Attributes::read(const std::vector<paddle::any>& values, Operator of) {
  Attributes result;
  size_t i = 0;
  result.for_each(of, [&](const char* name, auto& member) {
    require(i < values.size(), name, ": expected an attribute of the operator, got none");
    member = paddle::any_cast<std::decay_t<decltype(member)>>(values[i++]);
  });
  return result;
}

std::vector<std::string> Attributes::declarations(Operator of) {
  struct TypeName {
    const char* of(bool) { return "bool"; }
    const char* of(int) { return "int"; }
    const char* of(float) { return "float"; }
    const char* of(const std::string&) { return "std::string"; }
    const char* of(const std::vector<int>&) { return "std::vector<int>"; }
  };
  std::vector<std::string> result;
  Attributes().for_each(of, [&](const char* name, const auto& member) {
    result.push_back(text(name, ": ", TypeName().of(member)));
  });
  return result;
}

Tensor undo_onednn_layout(const char* name, const Tensor& tensor, const Attributes& attributes) {
  require(tensor.defined() && tensor.is_dense_tensor(), name, ": expected a dense tensor");
  const auto& dense = static_cast<const phi::DenseTensor&>(*tensor.impl());
  require(dense.initialized() || dense.numel() == 0, name, ": expected a tensor with memory");
  if (dense.layout() != phi::DataLayout::ONEDNN) {
    // Paddle copies strided views before it calls an operator.
    require(dense.meta().is_contiguous(), name, ": expected contiguous memory");
    return tensor;
  }
  // oneDNN permutes the sizes of a channels-last model's tensors, but not of all, and does not say
  // of which.
  require(attributes.data_format == "NCHW",
          "data_format: expected \"NCHW\" in a program that runs with oneDNN, got \"",
          attributes.data_format, "\" (turn oneDNN off in the predictor's configuration)");
  auto copy = std::make_shared<phi::DenseTensor>();
  phi::funcs::TransDataLayoutFromOneDNN(phi::DataLayout::ONEDNN, phi::DataLayout::NCHW, dense,
                                        copy.get(), phi::CPUPlace(), false);
  return Tensor(copy);
}

Problem make_problem(const Inputs& in, const Attributes& a) {
  check_attributes(a);
  Problem p;
  p.channels_last = a.data_format == "NHWC";
  p.x_channels_last = in.x_channels_last;
  p.plain = !in.offset.defined();
  p.modulated = a.joined || in.mask.defined();
  p.joined = a.joined;
  p.offset_bound = a.offset_bound;
  p.negative_slope = a.negative_slope;
  if (a.upper_bound > 0) p.upper_bound = a.upper_bound;
  require(!a.joined || !in.mask.defined(), "mask: expected none beside joined offsets");

  const auto& x = in.x.dims();
  require(x.size() == 4 && x[0] >= 0 && x[1] > 0 && x[2] > 0 && x[3] > 0,
          "x: expected 4 sizes, all but the first positive, got ", shape_of(in.x));
  p.batch = x[0];
  p.channels = x[p.channels_last ? 3 : 1];
  p.height = x[p.channels_last ? 1 : 2];
  p.width = x[p.channels_last ? 2 : 3];
  require(p.height <= kMaxSide && p.width <= kMaxSide, "x: expected at most ", kMaxSide,
          " rows and columns, got ", p.height, "x", p.width);

  const auto& weight = in.weight.dims();
  require(weight.size() == 4 && weight[0] > 0 && weight[1] > 0 && weight[2] > 0 && weight[3] > 0,
          "weight: expected 4 positive sizes, got ", shape_of(in.weight));
  p.out_channels = weight[0];
  p.kernel_h = weight[2];
  p.kernel_w = weight[3];
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
  p.weighted = (a.gradient_mask & kUnitWeight) == 0;
  p.planes_last = (a.gradient_mask & kPlanesLast) != 0;
  require(!p.planes_last || (in.x.is_cpu() && !a.joined && !p.plain && !in.flow.defined()),
          "offset: expected the order of DCNv3 only on the CPU and not for inference");
  require(p.channels % p.groups == 0 && p.out_channels % p.groups == 0,
          "groups: expected a divisor of ", p.channels, " channels and ", p.out_channels,
          " filters, got ", p.groups);
  require(p.channels % p.deformable_groups == 0, "deformable_groups: expected a divisor of ",
          p.channels, " channels, got ", p.deformable_groups);
  require(p.weighted || (p.groups == p.channels && p.out_channels == p.channels),
          "groups: expected ", p.channels, " groups and filters without weights, got ", p.groups,
          " and ", p.out_channels);

  p.out_height =
      output_size(p.height, p.kernel_h, p.stride_h, p.pad_top, p.pad_bottom, p.dilation_h);
  p.out_width = output_size(p.width, p.kernel_w, p.stride_w, p.pad_left, p.pad_right, p.dilation_w);
  require(p.out_height > 0 && p.out_width > 0, "x: expected room for the kernel, got an output of ",
          p.out_height, "x", p.out_width, " pixels");
  constexpr int64_t kWidest = sizeof(double);
  require(product({p.out_height, p.out_width, p.out_channels, p.batch, kWidest}) >= 0,
          "x: expected an output of at most ", std::numeric_limits<int64_t>::max() / kWidest,
          " elements");

  const phi::Place& place = in.x.place();
  const phi::DataType dtype = in.x.dtype();
  require(!p.plain || (dtype == phi::DataType::FLOAT32 && p.kernel_h == 3 && p.kernel_w == 3),
          "weight: expected float32 [M, C, 3, 3], got ", phi::DataTypeToString(dtype), " ",
          shape_of(in.weight));
  const bool mixed = !p.plain && in.offset.dtype() == phi::DataType::FLOAT32;
  const phi::DataType offset_dtype = mixed ? phi::DataType::FLOAT32 : dtype;
  p.dtype = element_type("x", dtype);
  p.offset_dtype = mixed ? DataType::kFloat32 : p.dtype;
  const auto planes = [&](int64_t of_tap) {
    return product({of_tap, p.deformable_groups, p.kernel_h, p.kernel_w});
  };
  const auto field = [&](int64_t count) {
    return image_shape(p.planes_last, p.batch, count, p.out_height, p.out_width);
  };
  int64_t offset_planes = planes(p.joined ? 3 : 2);
  if (p.planes_last && !in.mask.defined()) {
    const auto& shape = in.offset.dims();
    offset_planes = p.packed_planes = std::max(planes(3), shape.size() == 4 ? shape[3] : 0);
    p.modulated = true;
  }
  if (!p.plain) check_tensor("offset", in.offset, place, offset_dtype, field(offset_planes));
  if (in.mask.defined()) check_tensor("mask", in.mask, place, offset_dtype, field(planes(1)));
  if (in.flow.defined()) {
    p.flows = in.flow.dims().size() == 4 ? in.flow.dims()[1] / 2 : 0;
    require(p.flows > 0 && p.deformable_groups % p.flows == 0,
            "flow: expected 4 sizes, the second twice a divisor of ", p.deformable_groups,
            " deformable groups, got ", shape_of(in.flow));
    check_tensor("flow", in.flow, place, offset_dtype, field(2 * p.flows));
  }
  check_tensor("weight", in.weight, place, dtype,
               std::array{p.out_channels, p.group_channels(), p.kernel_h, p.kernel_w});
  if (in.bias.defined()) check_tensor("bias", in.bias, place, dtype, std::array{p.out_channels});
  if (in.grad_out.defined()) {
    check_tensor("out@GRAD", in.grad_out, place, dtype, output_shape(p));
  }
  if (in.addend.defined()) check_tensor("addend", in.addend, place, dtype, output_shape(p));
  return p;
}

}  // namespace binding
}  // namespace dcn

// With f the operator without bias, g out's gradient and v the factors, the sum to differentiate is
//
//   <g, Df v> = <g, f(v_x, offset, mask, weight) + f(x, offset, v_mask, weight)
//                   + f(x, offset, mask, v_weight) + v_bias + D_offset f v_offset>
//
// since f is linear in x, mask and weight. Bilinear interpolation is linear in y between two rows,
// so its derivative is the difference of the samples at these rows, of which there is none where
// y <= -1 or y >= H; and likewise for x:
//
//   D_offset f v_offset = sum over axes a of   f(x, offset with a on the next row, mask v_a,
//   weight)
//                                            - f(x, offset with a on the row before, ...)
//
// whose derivative by a itself is 0. So forward and backward of these problems are all it takes: up
// to seven of each, and memory for a dozen tensors of the size of offset.
#include "double_backward.h"

#include <algorithm>

#include "../kernels/sampling.h"
#include "paddle/phi/api/include/api.h"
#include "run_on_device.h"

namespace dcn {
namespace binding {
namespace {

namespace op = paddle::experimental;

// What one call of f takes.
struct Operands {
  Tensor x, offset, mask, weight;
};

// In the shape and dtype of another tensor.
Tensor fitted(const Tensor& tensor, const Tensor& like) {
  const Tensor shaped = op::reshape(tensor, like.shape());
  return shaped.dtype() == like.dtype() ? shaped : op::cast(shaped, like.dtype());
}

class Sum {
 public:
  void add(const Tensor& term) { total_ = total_.defined() ? op::add(total_, term) : term; }
  void subtract(const Tensor& term) {
    total_ = total_.defined() ? op::subtract(total_, term) : op::scale(term, -1.0);
  }
  // In the shape and dtype of a tensor; where there is none, nothing.
  Tensor like(const Tensor& tensor) const {
    if (!tensor.defined()) return Tensor();
    return total_.defined() ? fitted(total_, tensor) : op::full_like(tensor, 0);
  }

 private:
  Tensor total_;
};

class DoubleBackward {
 public:
  DoubleBackward(const Inputs& inputs, const Attributes& attributes)
      : given_(inputs),
        attributes_(ordinary(attributes)),
        problem_(make_problem(inputs, attributes)) {
    in_.x = widen(inputs.x);
    const Fields fields = to_planes({widen(inputs.offset), widen(inputs.mask)});
    in_.offset = fields.offset;
    in_.mask = fields.mask;
    in_.weight = widen(inputs.weight);
    in_.grad_out = widen(inputs.grad_out);
  }

  Derivatives run(const Derivatives& given) {
    if (problem_.batch > 0) {
      const Fields fields = to_planes({widen(given.offset), widen(given.mask)});
      const Derivatives factors{widen(given.x),      fields.offset,     fields.mask,
                                widen(given.weight), widen(given.bias), Tensor()};
      if (factors.x.defined()) {
        include({factors.x, in_.offset, in_.mask, in_.weight}, kOffset | kMask | kWeight);
      }
      if (factors.mask.defined()) {
        include({in_.x, in_.offset, factors.mask, in_.weight}, kX | kOffset | kWeight);
      }
      if (factors.weight.defined()) {
        include({in_.x, in_.offset, in_.mask, factors.weight}, kX | kOffset | kMask);
      }
      if (factors.bias.defined()) {
        const int64_t filters = problem_.out_channels;
        const Shape shape = problem_.channels_last ? Shape{filters} : Shape{filters, 1, 1};
        const Tensor zeros = op::full_like(in_.grad_out, 0);
        out_.add(op::add(zeros, op::reshape(factors.bias, shape)));
      }
      if (factors.offset.defined()) include_offset(factors.offset);
    }
    Derivatives result;
    result.x = x_.like(given_.x);
    const Fields fields = from_planes({offset_.like(in_.offset), mask_.like(in_.mask)});
    result.offset = fitted(fields.offset, given_.offset);
    if (given_.mask.defined()) result.mask = fitted(fields.mask, given_.mask);
    result.weight = weight_.like(given_.weight);
    result.grad_out = out_.like(given_.grad_out);
    return result;
  }

 private:
  using Shape = std::vector<int64_t>;

  // To float32 from half types, which cannot hold positions and have no arithmetic on the CPU.
  Tensor widen(const Tensor& tensor) const {
    const bool wide = problem_.dtype == DataType::kFloat64;
    const auto dtype = wide ? phi::DataType::FLOAT64 : phi::DataType::FLOAT32;
    return !tensor.defined() || tensor.dtype() == dtype ? tensor : op::cast(tensor, dtype);
  }

  // Offsets and masks as the caller has them to planes, and back; see Problem::planes_last.
  struct Fields {
    Tensor offset, mask;
  };
  Fields to_planes(const Fields& given) const {
    const Problem& p = problem_;
    if (!p.planes_last || p.batch == 0) return given;
    if (!p.packed_planes) return {to_planes(given.offset, 2), to_planes(given.mask, 1)};
    if (!given.offset.defined()) return {};
    const int64_t taps = p.taps(), groups = p.deformable_groups;
    const Tensor used = op::slice(given.offset, {3}, {0}, {3 * groups * taps}, {1}, {});
    const Tensor parts = op::reshape(used, {p.batch, p.out_height, p.out_width, groups, 3 * taps});
    return {to_planes(op::slice(parts, {4}, {0}, {2 * taps}, {1}, {}), 2),
            to_planes(op::slice(parts, {4}, {2 * taps}, {3 * taps}, {1}, {}), 1)};
  }
  Fields from_planes(const Fields& planes) const {
    const Problem& p = problem_;
    if (!p.planes_last || p.batch == 0) return planes;
    const Fields last{from_planes(planes.offset, 2), from_planes(planes.mask, 1)};
    if (!p.packed_planes) return last;
    const int64_t padding = p.packed_planes - 3 * p.deformable_groups * p.taps();
    const Shape pixels{p.batch, p.out_height, p.out_width};
    const Tensor used =
        op::reshape(op::concat({last.offset, last.mask}, 4), {pixels[0], pixels[1], pixels[2], -1});
    if (padding == 0) return {used, Tensor()};
    const Tensor zeros =
        paddle::zeros({pixels[0], pixels[1], pixels[2], padding}, used.dtype(), used.place());
    return {op::concat({used, zeros}, 3), Tensor()};
  }
  // [N, Ho, Wo, planes], or with groups as a dimension, to [N, planes, Ho, Wo], and back.
  Tensor to_planes(const Tensor& tensor, int64_t of_tap) const {
    const Problem& p = problem_;
    if (!tensor.defined()) return tensor;
    const Tensor parts = op::reshape(tensor, {p.batch, p.out_height, p.out_width,
                                              p.deformable_groups, p.kernel_w, p.kernel_h, of_tap});
    const Tensor ordered = op::flip(op::transpose(parts, {0, 3, 5, 4, 6, 1, 2}), {4});
    return op::reshape(ordered, {p.batch, -1, p.out_height, p.out_width});
  }
  Tensor from_planes(const Tensor& planes, int64_t of_tap) const {
    const Problem& p = problem_;
    const Tensor parts = op::reshape(planes, {p.batch, p.deformable_groups, p.kernel_h, p.kernel_w,
                                              of_tap, p.out_height, p.out_width});
    const Tensor ordered = op::flip(op::transpose(parts, {0, 5, 6, 1, 3, 2, 4}), {6});
    return op::reshape(ordered, {p.batch, p.out_height, p.out_width, p.deformable_groups, -1});
  }

  // Adds f of these operands, and its gradients for which there is a bit.
  void include(const Operands& operands, int bits) {
    out_.add(convolve(operands));
    const Operands gradients = differentiate(operands, bits);
    if (bits & kX) x_.add(gradients.x);
    if (bits & kOffset) offset_.add(gradients.offset);
    if (bits & kMask && in_.mask.defined()) mask_.add(gradients.mask);
    if (bits & kWeight) weight_.add(gradients.weight);
  }

  void include_offset(const Tensor& given) {
    const Problem& p = problem_;
    const Shape planes{p.batch, p.deformable_groups, p.taps(), 2, p.out_height, p.out_width};
    const Tensor offset = op::reshape(in_.offset, planes), factors = op::reshape(given, planes);
    const Tensor origin = origins();
    const Tensor position = op::add(offset, origin);
    const Tensor before = op::subtract(op::floor(position), origin);
    const Tensor outside = op::full({1}, -1, offset.dtype(), offset.place());
    const Tensor inside = op::cast(op::greater_than(position, outside), offset.dtype());
    const Tensor moved = op::multiply(factors, inside);
    for (const int axis : {0, 1}) {
      const auto along = [&](const Tensor& tensor) {
        const Shape shape{p.batch, p.deformable_groups * p.taps(), p.out_height, p.out_width};
        const Tensor view = op::slice(tensor, {3}, {axis}, {axis + 1}, {1}, {});
        return op::reshape(op::scale(view, 1.0, 0.0), shape);  // the kernels take no views
      };
      const auto with = [&](const Tensor& y, const Tensor& x) {
        const Tensor joined = op::concat(
            {op::slice(y, {3}, {0}, {1}, {1}, {}), op::slice(x, {3}, {1}, {2}, {1}, {})}, 3);
        return op::reshape(joined, in_.offset.shape());
      };
      const Tensor factor = along(moved);
      const Tensor mask = in_.mask.defined() ? op::multiply(factor, in_.mask) : factor;
      const Tensor after = op::scale(before, 1.0, 1.0);
      for (const bool next : {true, false}) {
        const Tensor& row = next ? after : before;
        const Operands operands{in_.x, axis == 0 ? with(row, offset) : with(offset, row), mask,
                                in_.weight};
        const auto count = [next](Sum& sum, const Tensor& term) {
          next ? sum.add(term) : sum.subtract(term);
        };
        const Operands gradients = differentiate(operands, kX | kOffset | kMask | kWeight);
        count(out_, convolve(operands));
        count(x_, gradients.x);
        count(weight_, gradients.weight);
        if (in_.mask.defined()) count(mask_, op::multiply(gradients.mask, factor));
        const Tensor of_offset = op::reshape(gradients.offset, planes);
        const Tensor none = op::full_like(of_offset, 0);
        count(offset_, axis == 0 ? with(none, of_offset) : with(of_offset, none));
      }
    }
  }

  // Where each tap samples without its offset: [1, 1, kh * kw, 2, Ho, Wo].
  Tensor origins() const {
    const Problem& p = problem_;
    Tensor result = paddle::empty({1, 1, p.taps(), 2, p.out_height, p.out_width},
                                  phi::DataType::FLOAT64, phi::CPUPlace());
    double* value = result.data<double>();
    for (int64_t tap = 0; tap < p.taps(); ++tap) {
      for (const int axis : {0, 1}) {
        for (int64_t i = 0; i < p.out_height; ++i) {
          for (int64_t j = 0; j < p.out_width; ++j) {
            *value++ = static_cast<double>(
                axis == 0 ? tap_origin(i, tap / p.kernel_w, p.stride_h, p.pad_top, p.dilation_h)
                          : tap_origin(j, tap % p.kernel_w, p.stride_w, p.pad_left, p.dilation_w));
          }
        }
      }
    }
    return widen(result.copy_to(in_.x.place(), true));
  }

  Problem problem_of(const Operands& o) const {
    Inputs inputs;
    inputs.x = o.x;
    inputs.offset = o.offset;
    inputs.mask = o.mask;
    inputs.weight = o.weight;
    return make_problem(inputs, attributes_);
  }

  Tensor convolve(const Operands& o) const {
    const Problem p = problem_of(o);
    const Tensor bias = paddle::zeros({p.out_channels}, o.x.dtype(), o.x.place());
    Tensor out = paddle::empty(in_.grad_out.shape(), o.x.dtype(), o.x.place());
    ForwardTensors tensors;
    tensors.x = o.x.data();
    tensors.offset = o.offset.data();
    tensors.mask = o.mask.defined() ? o.mask.data() : nullptr;
    tensors.weight = o.weight.data();
    tensors.bias = bias.data();
    tensors.out = out.data();
    forward(p, tensors, o.x);
    return out;
  }

  // The gradients of <g, f> for which there is a bit.
  Operands differentiate(const Operands& o, int bits) const {
    Operands result;
    const auto gradient = [&](int bit, const Tensor& of, Tensor& place) -> void* {
      if (!(bits & bit) || !of.defined()) return nullptr;
      place = paddle::empty(of.shape(), of.dtype(), of.place());
      return place.data();
    };
    BackwardTensors tensors;
    tensors.x = o.x.data();
    tensors.offset = o.offset.data();
    tensors.mask = o.mask.defined() ? o.mask.data() : nullptr;
    tensors.weight = o.weight.data();
    tensors.grad_out = in_.grad_out.data();
    tensors.grad_x = gradient(kX, o.x, result.x);
    tensors.grad_offset = gradient(kOffset, o.offset, result.offset);
    tensors.grad_mask = gradient(kMask, o.mask, result.mask);
    tensors.grad_weight = gradient(kWeight, o.weight, result.weight);
    tensors.grad_bias = nullptr;
    backward(problem_of(o), tensors, o.x);
    return result;
  }

  // Factors take the place of the weight, so ones are a weight as any other.
  static Attributes ordinary(Attributes attributes) {
    attributes.gradient_mask &= ~(kUnitWeight | kPlanesLast);
    return attributes;
  }

  const Inputs& given_;
  Inputs in_;  // widened
  const Attributes attributes_;
  const Problem problem_;
  Sum x_, offset_, mask_, weight_, out_;
};

}  // namespace

Derivatives double_backward(const Inputs& inputs, const Derivatives& factors,
                            const Attributes& attributes) {
  return DoubleBackward(inputs, attributes).run(factors);
}

}  // namespace binding
}  // namespace dcn

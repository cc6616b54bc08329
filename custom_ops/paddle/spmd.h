// Distributed tensors: along which dimensions a call may be spread over a mesh of processes. Paddle
// gathers every input of an operator that has no such rule.
#pragma once

#include <vector>

#include "paddle/phi/api/ext/spmd_infer.h"
#include "paddle/phi/core/distributed/auto_parallel/dist_attr.h"
#include "tensors.h"

namespace dcn {
namespace binding {

using DistAttr = phi::distributed::TensorDistAttr;
using SpmdInputs = std::vector<paddle::CustomSpmdInferTensorArg>;

// The mesh dimensions that images, deformable groups and filters are spread over, -1 for none. What
// a tensor lacks of these is replicated, or a sum over the processes: the output of those over
// deformable groups, a gradient of those over what it does not have itself.
class Spread {
 public:
  Spread(const SpmdInputs& inputs, const std::vector<paddle::any>& attributes, bool modulated)
      : mesh_(attr(inputs, 0).process_mesh()), modulated_(modulated) {
    const Attributes a = Attributes::read(attributes, Operator::kForward);
    channels_last_ = a.data_format == "NHWC";
    const size_t weight = modulated ? 3 : 2;
    images_ = mesh_dimension(inputs, 0, 0);
    if (images_ < 0) images_ = mesh_dimension(inputs, 1, 0);
    if (a.groups > 1 || a.gradient_mask & kPlanesLast) return;
    // The attribute counts the deformable groups of one process: `_ops.py` divides it where they
    // are spread. So it tells here, too, whether they are.
    const int64_t groups = mesh_dimension(inputs, 0, channels_last_ ? 3 : 1);
    const auto &offset = meta(inputs, 1).dims(), &kernel = meta(inputs, weight).dims();
    if (groups >= 0 && groups != images_ &&
        offset[1] == 2 * kernel[2] * kernel[3] * a.deformable_groups * mesh_.dim_size(groups)) {
      groups_ = groups;
    }
    const int64_t filters = mesh_dimension(inputs, weight, 0);
    if (filters >= 0 && filters != images_ && filters != groups_ &&
        kernel[0] % mesh_.dim_size(filters) == 0) {
      filters_ = filters;
    }
  }

  phi::distributed::SpmdInfo forward() const {
    auto inputs = images_and_weight({}, {});
    inputs.push_back(place({filters_}, {groups_}));  // the first process over groups adds the bias
    return {inputs, {place(image(filters_), {groups_})}};
  }

  phi::distributed::SpmdInfo backward() const {
    auto inputs = images_and_weight({}, {}), gradients = images_and_weight({filters_}, {images_});
    inputs.push_back(place(image(filters_), {}));
    gradients.push_back(place({filters_}, {images_}));
    return {inputs, gradients};
  }

 private:
  using Dimensions = std::vector<int64_t>;

  static const phi::distributed::DistMetaTensor& meta(const SpmdInputs& inputs, size_t i) {
    return paddle::get<phi::distributed::DistMetaTensor>(inputs[i]);
  }
  static const DistAttr& attr(const SpmdInputs& inputs, size_t i) {
    return meta(inputs, i).dist_attr();
  }
  static int64_t mesh_dimension(const SpmdInputs& inputs, size_t i, size_t axis) {
    const Dimensions& mapping = attr(inputs, i).dims_mapping();
    return axis < mapping.size() ? mapping[axis] : -1;
  }

  Dimensions image(int64_t channels) const {
    return channels_last_ ? Dimensions{images_, -1, -1, channels}
                          : Dimensions{images_, channels, -1, -1};
  }

  // Made anew: an attribute of another tensor keeps more of its rank than the mapping.
  DistAttr place(const Dimensions& mapping, const Dimensions& sums) const {
    DistAttr result(mapping);  // which takes a shape, of which only the rank counts
    result.set_process_mesh(mesh_);
    result.set_dims_mapping(mapping);
    for (const int64_t dimension : sums) {
      if (dimension >= 0) result.set_partial_status(Dimensions{dimension});
    }
    return result;
  }

  // x, offset, the mask of v2, and the weight, or their gradients.
  std::vector<phi::distributed::ArgDistAttr> images_and_weight(
      const Dimensions& image_sums, const Dimensions& weight_sums) const {
    std::vector<phi::distributed::ArgDistAttr> result{place(image(groups_), image_sums)};
    for (int i = 0; i < 1 + modulated_; ++i) {
      result.push_back(place({images_, groups_, -1, -1}, image_sums));
    }
    result.push_back(place({filters_, groups_, -1, -1}, weight_sums));
    return result;
  }

  phi::distributed::ProcessMesh mesh_;
  bool modulated_, channels_last_;
  int64_t images_ = -1, groups_ = -1, filters_ = -1;
};

template <bool modulated>
phi::distributed::SpmdInfo forward_spmd(const SpmdInputs& inputs,
                                        const std::vector<paddle::any>& attributes) {
  return Spread(inputs, attributes, modulated).forward();
}

template <bool modulated>
phi::distributed::SpmdInfo backward_spmd(const SpmdInputs& inputs,
                                         const std::vector<paddle::any>& attributes) {
  return Spread(inputs, attributes, modulated).backward();
}

// Of a gradient that nobody differentiates there is no factor, over which Paddle ends the process
// where the other inputs are distributed.
inline phi::distributed::SpmdInfo double_backward_spmd(const SpmdInputs&,
                                                       const std::vector<paddle::any>&) {
  PADDLE_THROW(phi::errors::Unimplemented(
      "paddle_dcn: deform_conv2d has no second derivatives of distributed tensors, only of local "
      "ones, as they are under paddle.DataParallel"));
}

}  // namespace binding
}  // namespace dcn

// Distributed tensors: images may be spread over a mesh, all else is whole on every process.
// Paddle gathers every input of an operator that has no such rule.
#pragma once

#include <vector>

#include "paddle/phi/api/ext/spmd_infer.h"
#include "paddle/phi/core/distributed/auto_parallel/dist_attr.h"

namespace dcn {
namespace binding {

using DistAttr = phi::distributed::TensorDistAttr;
using SpmdInputs = std::vector<paddle::CustomSpmdInferTensorArg>;

inline const DistAttr& dist_attr(const SpmdInputs& inputs, size_t i) {
  return paddle::get<phi::distributed::DistMetaTensor>(inputs[i]).dist_attr();
}

// The mesh dimension over which the images are spread, -1 for none: x's, else offset's.
inline int64_t batch_mesh_dimension(const SpmdInputs& inputs) {
  for (const size_t i : {0, 1}) {
    const auto& mapping = dist_attr(inputs, i).dims_mapping();
    if (!mapping.empty() && mapping[0] >= 0) return mapping[0];
  }
  return -1;
}

inline DistAttr spread(DistAttr attr, size_t rank, int64_t batch) {
  std::vector<int64_t> mapping(rank, -1);
  mapping[0] = batch;
  attr.set_dims_mapping(mapping);
  attr.clean_partial_status();
  return attr;
}

// Sums of the images at hand, to be added up over the mesh dimension they are spread over.
inline DistAttr partial_sum(DistAttr attr, size_t rank, int64_t batch) {
  attr = spread(attr, rank, -1);
  if (batch >= 0) attr.set_partial_status(std::vector<int64_t>{batch});
  return attr;
}

template <bool modulated>
phi::distributed::SpmdInfo forward_spmd(const SpmdInputs& inputs, const std::vector<paddle::any>&) {
  const int64_t batch = batch_mesh_dimension(inputs);
  const size_t weight = modulated ? 3 : 2;
  std::vector<phi::distributed::ArgDistAttr> wanted;
  for (size_t i = 0; i < weight; ++i) wanted.push_back(spread(dist_attr(inputs, i), 4, batch));
  wanted.push_back(spread(dist_attr(inputs, weight), 4, -1));
  wanted.push_back(spread(dist_attr(inputs, weight + 1), 1, -1));
  return {wanted, {spread(dist_attr(inputs, 0), 4, batch)}};
}

template <bool modulated>
phi::distributed::SpmdInfo backward_spmd(const SpmdInputs& inputs,
                                         const std::vector<paddle::any>&) {
  const int64_t batch = batch_mesh_dimension(inputs);
  const size_t weight = modulated ? 3 : 2;
  std::vector<phi::distributed::ArgDistAttr> wanted, gradients;
  for (size_t i = 0; i < weight; ++i) {
    wanted.push_back(spread(dist_attr(inputs, i), 4, batch));
    gradients.push_back(spread(dist_attr(inputs, i), 4, batch));
  }
  wanted.push_back(spread(dist_attr(inputs, weight), 4, -1));
  wanted.push_back(spread(dist_attr(inputs, weight + 1), 4, batch));
  gradients.push_back(partial_sum(dist_attr(inputs, weight), 4, batch));
  gradients.push_back(partial_sum(dist_attr(inputs, weight), 1, batch));
  return {wanted, gradients};
}

}  // namespace binding
}  // namespace dcn

// Second derivatives, from the first ones of other problems.
#pragma once

#include "tensors.h"

namespace dcn {
namespace binding {

// A tensor for each input of forward; undefined ones are zeros. Of out's gradient in `grad_out`.
struct Derivatives {
  Tensor x, offset, mask, weight, bias, grad_out;
};

// Backward computes gradients from inputs and out's gradient. Returns the gradients of the sum of
// those gradients times `factors`; offset's in the places of its kinks are as in backward.
Derivatives double_backward(const Inputs& inputs, const Derivatives& factors,
                            const Attributes& attributes);

}  // namespace binding
}  // namespace dcn

// The launchers of direct.cu, for layers with few channels per group. They compute all but the
// gradient of the bias.
#pragma once

#include "../dcn.h"

namespace dcn {
namespace cuda {

// Whether they are for such a problem, and faster than a matrix product there.
bool direct_applies(const Problem& p, int flags);

size_t direct_forward_workspace(const Problem& p, const ForwardTensors& t);
int direct_forward(const Problem& p, const ForwardTensors& t, void* workspace, void* stream);

size_t direct_backward_workspace(const Problem& p, const BackwardTensors& t);
int direct_backward(const Problem& p, const BackwardTensors& t, void* workspace, void* stream);

}  // namespace cuda
}  // namespace dcn

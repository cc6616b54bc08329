// Runs a problem on an engine of the CPU or, where that is not for it, on a lower one.
#include <algorithm>

#include "../dcn.h"
#include "engine.h"

namespace dcn {
namespace cpu {
namespace {

// Of the engine and all that may take its place.
template <typename Bytes>
size_t largest_workspace(int number, const Bytes& bytes) {
  int64_t largest = 0;
  for (const Engine* e = &cpu::engine(number); e != nullptr; e = e->lower) {
    largest = std::max(largest, bytes(*e));
  }
  return static_cast<size_t>(largest);
}

}  // namespace
}  // namespace cpu
}  // namespace dcn

size_t dcn_cpu_forward_workspace(const dcn::Problem* problem, const dcn::ForwardTensors*,
                                 int engine, int threads) {
  return dcn::cpu::largest_workspace(
      engine, [&](const auto& e) { return e.forward_workspace(*problem, threads); });
}

size_t dcn_cpu_backward_workspace(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                                  int engine, int threads) {
  return dcn::cpu::largest_workspace(
      engine, [&](const auto& e) { return e.backward_workspace(*problem, *tensors, threads); });
}

void dcn_cpu_forward(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                     void* workspace, int engine, int threads) {
  const auto* e = &dcn::cpu::engine(engine);
  while (!e->forward(*problem, *tensors, workspace, threads)) e = e->lower;
}

void dcn_cpu_backward(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                      void* workspace, int engine, int threads) {
  const auto* e = &dcn::cpu::engine(engine);
  while (!e->backward(*problem, *tensors, workspace, threads)) e = e->lower;
}

// Runs a problem on an engine of the CPU or, where that is not for it, on one before it.
#include <algorithm>

#include "../dcn.h"
#include "engine.h"

namespace dcn::cpu {
namespace {

// f(kernels) for an engine and those before it that may take its place, until it returns true.
template <typename F>
void try_kernels(const Problem& p, int engine, const F& f) {
  for (bool done = false; !done; --engine) {
    const Kernels* const k = kernels(engine, p);
    done = k != nullptr && f(*k);
  }
}

// What all of them need.
template <typename F>
size_t largest_workspace(const Problem& p, int engine, const F& bytes) {
  int64_t largest = 0;
  try_kernels(p, engine, [&](const Kernels& k) {
    largest = std::max(largest, bytes(k));
    return k.take_any_values;
  });
  return static_cast<size_t>(largest);
}

}  // namespace
}  // namespace dcn::cpu

using namespace dcn::cpu;

size_t dcn_cpu_packed_bytes(const dcn::Problem* problem, int engine) {
  size_t bytes = 0;
  try_kernels(*problem, engine, [&](const Kernels& k) {
    bytes = static_cast<size_t>(k.packed_bytes(*problem));
    return true;
  });
  return bytes;
}

size_t dcn_cpu_forward_workspace(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                                 int engine, int threads) {
  dcn::ForwardTensors once = *tensors;
  return largest_workspace(*problem, engine, [&](const Kernels& k) {
    const int64_t bytes = k.forward_workspace(*problem, once, threads);
    once.packed = nullptr;  // which is the first one's
    return bytes;
  });
}

size_t dcn_cpu_backward_workspace(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                                  int engine, int threads) {
  return largest_workspace(*problem, engine, [&](const Kernels& k) {
    return k.backward_workspace(*problem, *tensors, threads);
  });
}

void dcn_cpu_forward(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                     void* workspace, int engine, int threads) {
  dcn::ForwardTensors once = *tensors;
  try_kernels(*problem, engine, [&](const Kernels& k) {
    const bool done = k.forward(*problem, once, workspace, threads);
    once.packed = nullptr;  // which is the first one's
    return done;
  });
}

void dcn_cpu_backward(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                      void* workspace, int engine, int threads) {
  try_kernels(*problem, engine,
              [&](const Kernels& k) { return k.backward(*problem, *tensors, workspace, threads); });
}

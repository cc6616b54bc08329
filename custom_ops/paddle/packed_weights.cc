// The store of packed weights.
#if PADDLE_DCN_PADDLE_MAJOR >= 3
#undef PADDLE_WITH_CUSTOM_KERNEL  // with it, Paddle before 3.3 does not tell a tensor's allocation
#endif
#include "packed_weights.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "../kernels/dcn.h"
#include "paddle/phi/core/dense_tensor.h"

namespace dcn {
namespace binding {
namespace {

bool packs_alike(const Problem& a, const Problem& b) {
  return a.dtype == b.dtype && a.channels == b.channels && a.out_channels == b.out_channels &&
         a.kernel_h == b.kernel_h && a.kernel_w == b.kernel_w && a.groups == b.groups &&
         a.deformable_groups == b.deformable_groups && a.plain == b.plain;
}

std::shared_ptr<void> allocate(size_t bytes) {
  constexpr size_t kAlignment = 256;
  void* const memory =
      std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, std::free};
}

std::shared_ptr<phi::Allocation> allocation([[maybe_unused]] const paddle::Tensor& tensor) {
#if PADDLE_DCN_PADDLE_MAJOR >= 3
  return static_cast<const phi::DenseTensor&>(*tensor.impl()).Holder();
#else
  return nullptr;  // Paddle 2 never tells it
#endif
}

}  // namespace

PackedWeights::Use::Use(PackedWeights& all, const paddle::Tensor& weight, const Problem& problem,
                        int engine)
    : all_(all) {
  const auto holder = allocation(weight);
  if (holder == nullptr) return;
  const std::lock_guard<std::mutex> lock(all.mutex_);
  auto& entries = all.entries_;
  entries.erase(std::remove_if(entries.begin(), entries.end(),
                               [](const Entry& entry) { return entry.weight.expired(); }),
                entries.end());
  for (const Entry& entry : entries) {
    if (entry.data == weight.data() && entry.engine == engine && entry.weight.lock() == holder &&
        packs_alike(entry.problem, problem)) {
      if (entry.ready) memory_ = entry.memory;
      return;
    }
  }
  memory_ = allocate(dcn_cpu_packed_bytes(&problem, engine));
  packs_ = true;
  entries.push_back({holder, weight.data(), problem, engine, memory_, false});
}

void PackedWeights::Use::done() {
  if (!packs_) return;
  const std::lock_guard<std::mutex> lock(all_.mutex_);
  for (Entry& entry : all_.entries_) entry.ready |= entry.memory == memory_;
  packs_ = false;
}

PackedWeights::Use::~Use() {
  if (!packs_) return;
  const std::lock_guard<std::mutex> lock(all_.mutex_);
  auto& entries = all_.entries_;
  entries.erase(std::remove_if(entries.begin(), entries.end(),
                               [&](const Entry& entry) { return entry.memory == memory_; }),
                entries.end());
}

}  // namespace binding
}  // namespace dcn

// Scratch memory: one block from the caller, dealt out in aligned parts.
#pragma once

#include "tile-inl.h"

namespace dcn {
namespace cpu {
namespace DCN_ISA {

// Deals out parts of a block; with a null block it only adds up how large the block must be.
class Arena {
 public:
  explicit Arena(void* block) : block_(static_cast<char*>(block)) {}

  template <typename T>
  T* take(int64_t count) {
    char* part = block_ != nullptr ? block_ + used_ : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), kAlignment);
    return reinterpret_cast<T*>(part);
  }
  int64_t used() const { return used_; }

 private:
  // Two cache lines, since processors fetch them in pairs: threads never share one.
  static constexpr int64_t kAlignment = 128;
  char* block_;
  int64_t used_ = 0;
};

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

// How a workspace is dealt out, on every device.
#pragma once

#include <cstddef>

#include "problem.h"

namespace dcn {

DCN_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
DCN_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Deals out parts of a block of memory; with a null block it only adds up how large it must be.
class Arena {
 public:
  explicit Arena(void* block) : block_(static_cast<char*>(block)) {}

  template <typename T>
  DCN_INLINE_MEMBER T* take(int64_t count) {
    char* const part = block_ == nullptr ? nullptr : block_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), kAlignment);
    return reinterpret_cast<T*>(part);
  }
  int64_t used() const { return used_; }

 private:
  // A GPU reads this much at best; on a CPU, threads then never share a pair of cache lines, which
  // is what processors fetch.
  static constexpr int64_t kAlignment = 256;
  char* block_;
  int64_t used_ = 0;
};

}  // namespace dcn

// Weights that a program promises never to change, as the kernels want them: packed by the first
// call, kept as long as Paddle keeps the weight.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "../kernels/problem.h"
#include "paddle/phi/api/all.h"
#include "paddle/phi/core/allocator.h"

namespace dcn {
namespace binding {

class PackedWeights {
  struct Entry {
    // Tells the weight: unlike an address, it is never another's while the entry is here.
    std::weak_ptr<phi::Allocation> weight;
    const void* data;  // a tensor may be a part of its allocation
    Problem problem;   // as far as packing depends on it
    int engine;
    std::shared_ptr<void> memory;
    bool ready;
  };

 public:
  // What one call does with the memory: packs into it, or reads it. While another thread's first
  // call is packing, it does without.
  class Use {
   public:
    Use(PackedWeights& all, const paddle::Tensor& weight, const Problem& problem, int engine);
    ~Use();  // without done(), forgets what this call was to pack
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

    void* memory() const { return memory_.get(); }
    bool packs() const { return packs_; }
    void done();

   private:
    PackedWeights& all_;
    std::shared_ptr<void> memory_;
    bool packs_ = false;
  };

 private:
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace binding
}  // namespace dcn

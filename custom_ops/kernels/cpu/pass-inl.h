// What the two passes share: images that are copied and sampled, on the threads of a team.
#pragma once

#include "gemm-inl.h"
#include "team-inl.h"
#include "tile-inl.h"

namespace dcn::cpu::DCN_ISA {

constexpr int64_t kCopyBytes = 64 << 20;  // of x in channels-last order at a time, about

// Images that are in the workspace at a time. `bytes` is what one image takes, of `most`.
inline int64_t images_at_a_time(const Problem& p, int64_t bytes, int64_t most = kCopyBytes) {
  const int64_t fitting = larger(1, most / larger(bytes, 1));
  return larger(1, smaller(p.batch, p.im2col_step > 0 ? p.im2col_step : fitting));
}

// Bytes of the workspace of buffers of a kind.
template <typename Buffers, typename Tensors>
int64_t workspace_bytes(const Problem& p, const Tensors& tensors, int threads) {
  const Buffers buffers(p, tensors, nullptr, threads);
  return buffers.shared_bytes + threads * buffers.thread_bytes;
}

// A thread's part of the workspace, which is behind what all share.
template <typename Buffers>
typename Buffers::ThreadBuffers own_buffers(const Buffers& buffers, void* workspace, int thread) {
  return buffers.thread_buffers(static_cast<char*>(workspace) + buffers.shared_bytes +
                                thread * buffers.thread_bytes);
}

// Bytes of ForwardTensors::packed.
template <typename Buffers>
int64_t packed_bytes(const Problem& p) {
  Buffers buffers(p, {}, nullptr, 1);
  Arena arena(nullptr);
  buffers.take_weight(p, arena);
  return arena.used();
}

// The largest magnitudes of operands, found by all threads, where the product needs to know.
struct Largest {
  Magnitude x, mask, weight, grad_out;
};

inline const void* flow_of(const ForwardTensors& tensors) { return tensors.flow; }
inline const void* flow_of(const BackwardTensors&) { return nullptr; }

// One thread's way through a pass. A phase is a method that all threads of the team enter together.
template <typename Product, typename Tensors, typename Buffers>
struct Pass {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  using Element = typename Product::Element;

  const Problem& p;
  const Tensors& tensors;
  const Buffers& buffers;
  Largest& largest;
  Team& team;
  const typename Buffers::ThreadBuffers own;
  const Planes<const void> offset;
  Planes<const void> mask;
  const Planes<const void> flow;
  Tile<T> tile;
  int64_t first_image = 0, images = 0;  // that are at hand
  const Pixel* x = nullptr;  // theirs: arranged in buffers.blocks, or as they are in the tensor

  Pass(const Problem& p, const Tensors& tensors, const Buffers& buffers, void* workspace,
       Largest& largest, Team& team)
      : p(p),
        tensors(tensors),
        buffers(buffers),
        largest(largest),
        team(team),
        own(own_buffers(buffers, workspace, team.thread())),
        offset(like_offset(p, tensors.offset)),
        mask(like_mask(p, tensors.offset, tensors.mask)),
        flow(like_flow(p, flow_of(tensors))),
        tile{0, 0, 0, own.origins, own.origins + kMaxTile} {
    own.plan->largest_mask = 0;
    __builtin_memset(own.zeros, 0, buffers.slabs[0].channels * sizeof(Pixel));
  }
  ~Pass() { largest.mask.include_bits(own.plan->largest_mask); }

  // f() for all images, a few at a time.
  template <typename F>
  void for_images(F f) {
    for (first_image = 0; first_image < p.batch; first_image += buffers.images) {
      images = smaller(buffers.images, p.batch - first_image);
      const int64_t before = first_image * buffers.blocks.image_size();
      x = buffers.copies_x ? buffers.x : static_cast<const Pixel*>(tensors.x) + before;
      f();
    }
  }

  // Phase: f(region) over the pixels of all blocks of the images, some at a time.
  template <typename F>
  void for_blocks(F f) {
    const ChannelBlocks& blocks = buffers.blocks;
    const int64_t steps = ceil_div(blocks.pixels, kPixelBlock);
    team.for_each(images * blocks.count * steps, [&](int64_t task) {
      Region r = blocks[task / steps % blocks.count];
      r.image = task / steps / blocks.count;
      r.pixel = task % steps * kPixelBlock;
      r.pixels = smaller(kPixelBlock, blocks.pixels - r.pixel);
      f(r);
    });
  }

  // Phase: x to the arrangement of the blocks.
  void copy_x() {
    for_blocks([&](Region r) {
      Pixel* const copy = buffers.x + buffers.blocks.at(r);
      r.image += first_image;
      to_channels_last(like_x(p, tensors.x), r, copy);
      if constexpr (Product::kTerms > 1) largest.x.include(copy, r.pixels * r.channels);
    });
  }

  Image<const Pixel> x_image(const Slab& slab, int64_t deformable_group) const {
    return block_image<const Pixel>(p, buffers.blocks,
                                    x + (tile.image - first_image) * buffers.blocks.image_size(),
                                    slab, deformable_group, own.zeros);
  }

  // The columns of a slab and the taps [first, first + count) in the tile.
  template <typename Target>
  void sample(const Slab& slab, int64_t first, int64_t count, const ColumnLayout& layout,
              const Columns<Target>& columns) {
    const GroupRange range = deformable_range(p, slab);
    for (int64_t d = range.first; d <= range.last; ++d) {
      const Image<const Pixel> image = x_image(slab, d);
      for (int64_t tap = 0; tap < count; ++tap) {
        plan_samples(p, offset, mask, flow, tile, d, first + tap, *own.plan);
        sample_columns(*own.plan, tile.count, image, find_runs(p, slab, layout, d, tap), columns);
      }
    }
  }
};

// Runs a pass on every thread of a team; returns what the threads found.
template <typename P, typename Product, typename Tensors, typename Buffers>
Largest run_pass(const Problem& p, const Tensors& tensors, const Buffers& buffers, void* workspace,
                 int threads) {
  Largest largest;
  run_team(threads, [&](Team& team) {
    [[maybe_unused]] const typename Product::Scope scope;
    P(p, tensors, buffers, workspace, largest, team).run();
  });
  return largest;
}

}  // namespace dcn::cpu::DCN_ISA

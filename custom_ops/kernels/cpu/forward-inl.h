// The forward pass: sample a tile of output pixels, multiply it at once.
//
//   out[t][m] = bias[m] + sum over k of columns[t][k] * weight[k][m]
//
// Columns exist for one tile and a few taps at a time, in the second-level cache. A task computes
// several tiles, which share the weights of one slab while they are in that cache, too.
#pragma once

#include "gemm-inl.h"
#include "team-inl.h"
#include "workspace-inl.h"

namespace dcn {
namespace cpu {
namespace DCN_ISA {

constexpr int64_t kColumnBlock = 640;     // elements of one pixel's columns at a time, about
constexpr int64_t kMaxPixels = 384;       // that one task computes
constexpr int64_t kCopyBytes = 64 << 20;  // of x in channels-last order at a time, about
// About how many products of a pixel's columns with the weights of one output take as long as
// sampling the pixel, and as reading these weights anew.
constexpr int64_t kSampleCost = 64, kReadCost = 40;

// Images that are in the workspace at a time. `bytes` is what one image takes.
inline int64_t images_at_a_time(const Problem& p, int64_t bytes) {
  const int64_t fitting = larger(1, kCopyBytes / larger(bytes, 1));
  return larger(1, smaller(p.batch, p.im2col_step > 0 ? p.im2col_step : fitting));
}

// Few channels of all taps rather than all channels of few taps: the taps of a pixel sample nearly
// the same place, so that it stays in the cache.
inline int64_t forward_slab(const Problem& p) {
  return larger(16, smaller(kMaxSlab, kColumnBlock / p.taps() / 16 * 16));
}

template <typename Product>
struct ForwardLayout {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  using Element = typename Product::Element;

  Slabs slabs;
  Parts parts;            // of the copy of x
  bool copies_x;          // x is not channels-last, or not of the copy's type
  int64_t images;         // at a time
  int64_t panel_outputs;  // outputs of a group, padded
  int64_t pixels, tile;   // output pixels in a task and in a tile, at most
  int64_t outputs;        // of a group, padded, in a task at most; all if there are several groups
  int64_t taps_at_a_time, column_stride, out_stride;
  int64_t slab_depth, group_depth;  // rows of the packed weights, padded: of a slab, of a group
  Pixel* x;                         // the copy, arranged in parts
  Element* weight;                  // per group and panel of outputs: packed [k][m]
  T* bias;
  int64_t shared_bytes, thread_bytes;

  ForwardLayout(const Problem& p, void* workspace, int threads)
      : slabs(p, forward_slab(p)), parts(p, slabs) {
    copies_x = !p.channels_last || p.dtype != kDataType<Pixel>;
    images = copies_x ? images_at_a_time(p, p.channels * p.in_pixels() * sizeof(Pixel))
                      : larger(1, p.batch);
    panel_outputs = round_up(p.group_outputs(), Product::kColumnStep);
    const Slab widest = slabs[0];
    const int64_t blocks = ceil_div(p.taps() * widest.channels, kColumnBlock);
    taps_at_a_time = ceil_div(p.taps(), smaller(blocks, p.taps()));
    slab_depth = depth_of(widest.piece, p.taps());
    group_depth = (slabs.pieces - 1) * slab_depth +
                  depth_of(p.group_channels() - (slabs.pieces - 1) * widest.piece, p.taps());
    // A cache line more, so that the rows of a tile do not fall into the same cache sets.
    constexpr int64_t kLine = 64;
    column_stride = round_up(widest.groups * padded(taps_at_a_time * widest.piece),
                             kLine / static_cast<int64_t>(sizeof(Element))) +
                    kLine / static_cast<int64_t>(sizeof(Element));
    choose_task(p, threads, widest.groups);
    out_stride = widest.groups * outputs + kLine / static_cast<int64_t>(sizeof(T));
    const int64_t tiles = ceil_div(pixels, kMaxTile);
    tile = smaller(pixels, round_up(ceil_div(pixels, tiles), Product::kRowStep));
    Arena arena(workspace);
    x = arena.take<Pixel>(copies_x ? images * p.channels * p.in_pixels() : 0);
    weight = arena.take<Element>(p.groups * Product::kTerms * panel_outputs * group_depth);
    bias = arena.take<T>(p.groups * panel_outputs);
    shared_bytes = arena.used();
    Arena own(nullptr);
    thread_part(p, own);
    thread_bytes = own.used();
  }

  struct ThreadPart {
    Columns<Product> columns;
    T *out, *origins, *panel;
    Pixel* zeros;
    Plan<T>* plan;
  };
  ThreadPart thread_part(const Problem& p, Arena& arena) const {
    ThreadPart part;
    const int64_t size = tile * column_stride;
    part.columns = {arena.take<Element>(Product::kTerms * size), column_stride, size};
    part.out = arena.take<T>(pixels * out_stride);
    part.origins = arena.take<T>(2 * kMaxTile);
    // One panel of a slab's weights before they are split.
    part.panel = arena.take<T>(Product::kSplits ? Product::kPanel * slabs.piece * p.taps() : 0);
    part.zeros = arena.take<Pixel>(slabs[0].channels);
    part.plan = arena.take<Plan<T>>(1);
    return part;
  }

  static DCN_INLINE_MEMBER int64_t padded(int64_t depth) {
    return round_up(depth, Product::kDepthStep);
  }
  // Rows of the first `taps` taps of so many channels of one group, tap block by tap block.
  int64_t depth_of(int64_t channels, int64_t taps) const {
    return taps / taps_at_a_time * padded(taps_at_a_time * channels) +
           padded(taps % taps_at_a_time * channels);
  }
  // The row of a group's packed weights at which the slab's tap block from `tap` on begins.
  int64_t weight_row(const Slab& slab, int64_t tap) const {
    return slab.first / slabs.piece * slab_depth +
           tap / taps_at_a_time * padded(taps_at_a_time * slab.piece);
  }

  // Tasks are such that all threads end at about the same time, and share the outputs where there
  // are few pixels. Results do not depend on it: each output is a sum over k, in order.
  void choose_task(const Problem& p, int threads, int64_t slab_groups) {
    const int64_t all_pixels = p.out_pixels(), batch = larger(1, p.batch);
    const int64_t panels = ceil_div(panel_outputs, Product::kPanel);
    const bool few = p.groups == 1 && batch * ceil_div(all_pixels, kMaxPixels) < 4 * threads;
    int64_t least = -1;
    for (int64_t blocks = 1; blocks <= (few ? smaller(panels, threads) : 1); blocks *= 2) {
      const int64_t block = smaller(panel_outputs, ceil_div(panels, blocks) * Product::kPanel);
      const int64_t widest =
          smaller(kMaxPixels, larger(Product::kRows, (1 << 18) / (slab_groups * block)));
      const auto consider = [&](int64_t tasks) {
        const int64_t size = ceil_div(all_pixels, tasks);
        const int64_t rounds =
            ceil_div(batch * ceil_div(all_pixels, size) * ceil_div(panel_outputs, block), threads);
        // A task samples its pixels, in steps of a part of a register block, multiplies them by
        // its weights, and reads these.
        const int64_t cost = rounds * (round_up(size, Product::kRowStep) * (block + kSampleCost) +
                                       kReadCost * block);
        if (least < 0 || cost < least) {
          least = cost;
          pixels = size;
          outputs = block;
        }
      };
      const int64_t fewest = ceil_div(all_pixels, widest);
      for (int64_t more = 0; more <= smaller(fewest, 16); ++more) consider(fewest + more);
      consider(smaller(all_pixels, larger(fewest, threads / (batch * blocks))));
    }
  }
};

// Brings the weights of one slab's channels and one panel of outputs into the order of the columns:
// [tap][channel][lane of the panel].
template <typename T>
void order_weights(const Problem& p, const void* weight, int64_t group, int64_t output,
                   int64_t panel, int64_t channel, int64_t channels, T* target) {
  const int64_t taps = p.taps(), depth = p.group_channels() * taps;
  const int64_t outputs = smaller(panel, p.group_outputs() - output);
  const int64_t first_row = group * p.group_outputs() + output;
  if (outputs < panel) __builtin_memset(target, 0, channels * taps * panel * sizeof(T));
  constexpr int64_t kDepthBlock = 64;
  T converted[4][kDepthBlock];
  for (int64_t d0 = 0; d0 < channels * taps; d0 += kDepthBlock) {
    const int64_t block = smaller(kDepthBlock, channels * taps - d0);
    for (int64_t m = 0; m < outputs; m += 4) {
      const int64_t rows = smaller(4, outputs - m);
      const T* source[4];
      for (int64_t r = 0; r < rows; ++r) {
        source[r] = read_row(weight, p.dtype, (first_row + m + r) * depth + channel * taps + d0,
                             block, converted[r]);
      }
      int64_t c = d0 / taps, tap = d0 % taps;
      const auto next_row = [&] {
        T* row = target + (tap * channels + c) * panel + m;
        if (++tap == taps) {
          tap = 0;
          ++c;
        }
        return row;
      };
      int64_t d = 0;
      if (rows == 4) {
        for (; d + 4 <= block; d += 4) {
          T *r0 = next_row(), *r1 = next_row(), *r2 = next_row(), *r3 = next_row();
          transpose4x4(source[0] + d, source[1] + d, source[2] + d, source[3] + d, r0, r1, r2, r3);
        }
      }
      for (; d < block; ++d) {
        T* row = next_row();
        for (int64_t r = 0; r < rows; ++r) row[r] = source[r][d];
      }
    }
  }
}

// Packs the weights of one group and panel of outputs, slab by slab.
template <typename Product, typename T>
void pack_forward_weights(const Problem& p, const void* weight, int64_t group, int64_t output,
                          int64_t panel, const ForwardLayout<Product>& layout, T* ordered,
                          typename Product::Element* packed, Magnitude& largest) {
  const int64_t taps = p.taps(), piece = layout.slabs.piece;
  for (int64_t channel = 0; channel < p.group_channels(); channel += piece) {
    const int64_t channels = smaller(piece, p.group_channels() - channel);
    auto* target = packed + channel / piece * layout.slab_depth * panel * Product::kTerms;
    if constexpr (!Product::kSplits) {
      order_weights(p, weight, group, output, panel, channel, channels, target);
    } else {
      order_weights(p, weight, group, output, panel, channel, channels, ordered);
      if (Product::kTerms > 1) largest.include(ordered, channels * taps * panel);
      for (int64_t tap = 0; tap < taps; tap += layout.taps_at_a_time) {
        const int64_t depth = smaller(layout.taps_at_a_time, taps - tap) * channels;
        Product::pack(depth, panel, ordered + tap * channels * panel, panel, target);
        target += layout.padded(depth) * panel * Product::kTerms;
      }
    }
  }
}

// Zeros behind each group's columns, up to the depth that the product takes.
template <typename Product>
void clear_padding(const Columns<Product>& columns, int64_t pixels, int64_t groups, int64_t depth,
                   int64_t group_stride) {
  if (depth == group_stride) return;
  for (int term = 0; term < Product::kTerms; ++term) {
    for (int64_t t = 0; t < pixels; ++t) {
      auto* row = columns.data + term * columns.term_stride + t * columns.stride;
      for (int64_t g = 0; g < groups; ++g) {
        __builtin_memset(row + g * group_stride + depth, 0, (group_stride - depth) * sizeof(*row));
      }
    }
  }
}

// Of one image the output pixels [pixel, pixel + pixels), of each group the outputs from `output`
// on: every slab, a few taps at a time, tile after tile, into `out`, then to their place in memory.
template <typename Product>
void forward_pixels(const Problem& p, const ForwardTensors& tensors,
                    const ForwardLayout<Product>& layout,
                    const typename ForwardLayout<Product>::ThreadPart& own,
                    const typename Product::Pixel* x, int64_t image_index, int64_t pixel,
                    int64_t pixels, int64_t output) {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  Tile<T> tile{0, 0, 0, own.origins, own.origins + kMaxTile};
  const int64_t taps = p.taps();
  const int64_t outputs = smaller(layout.outputs, layout.panel_outputs - output);
  for (int64_t s = 0; s < layout.slabs.count; ++s) {
    const Slab slab = layout.slabs[s];
    if (slab.first == 0) {
      const T* bias = layout.bias + slab.group * layout.panel_outputs + output;
      for (int64_t t = 0; t < pixels; ++t) {
        __builtin_memcpy(own.out + t * layout.out_stride, bias, slab.groups * outputs * sizeof(T));
      }
    }
    const GroupRange range = deformable_range(p, slab);
    for (int64_t first = 0; first < taps; first += layout.taps_at_a_time) {
      const int64_t count = smaller(layout.taps_at_a_time, taps - first);
      const int64_t depth = count * slab.piece;
      const ColumnLayout columns{slab.piece, layout.padded(depth)};
      for (int64_t start = 0; start < pixels; start += layout.tile) {
        set_tile(p, image_index, pixel + start, smaller(layout.tile, pixels - start), tile);
        for (int64_t d = range.first; d <= range.last; ++d) {
          const Image<const Pixel> image =
              layout.copies_x
                  ? part_image<const Pixel>(p, layout.parts, x, slab, d, own.zeros)
                  : Image<const Pixel>{x + slab.channel, p.height, p.width, p.channels, own.zeros};
          for (int64_t tap = 0; tap < count; ++tap) {
            make_plan(p, tensors.offset, tensors.mask, tile, d, first + tap, image, *own.plan);
            sample_columns(*own.plan, tile.count, image, find_runs(p, slab, columns, d, tap),
                           own.columns);
          }
        }
        clear_padding(own.columns, tile.count, slab.groups, depth, columns.group_stride);
        for (int64_t g = 0; g < slab.groups; ++g) {
          const int64_t first_output = (slab.group + g) * layout.panel_outputs + output;
          const auto* weight = layout.weight + Product::kTerms * first_output * layout.group_depth;
          Product::multiply(tile.count, outputs, depth,
                            Product::left(own.columns.data + g * columns.group_stride,
                                          own.columns.stride, own.columns.term_stride),
                            weight, layout.group_depth, layout.weight_row(slab, first),
                            own.out + start * layout.out_stride + g * outputs, layout.out_stride);
        }
      }
    }
    if (slab.first + slab.piece == p.group_channels()) {
      for (int64_t g = 0; g < slab.groups; ++g) {
        from_channels_last(own.out + g * outputs, layout.out_stride,
                           smaller(outputs, p.group_outputs() - output), pixels, p.channels_last,
                           image_index, (slab.group + g) * p.group_outputs() + output,
                           p.out_channels, pixel, p.out_pixels(), tensors.out, p.dtype);
      }
    }
  }
}

template <typename Product>
int64_t forward_bytes(const Problem& p, int threads) {
  const ForwardLayout<Product> layout(p, nullptr, threads);
  return layout.shared_bytes + threads * layout.thread_bytes;
}

// Returns false, the result being wrong, where the product is not accurate.
template <typename Product>
bool forward(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads) {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  const ForwardLayout<Product> layout(p, workspace, threads);
  const int64_t panels = ceil_div(layout.panel_outputs, Product::kPanel);
  const int64_t blocks = ceil_div(layout.panel_outputs, layout.outputs);
  const int64_t tasks = ceil_div(p.out_pixels(), layout.pixels) * blocks;  // of an image
  const int64_t image_size = p.channels * p.in_pixels();
  Magnitude largest_x, largest_mask, largest_weight;
  run_team(threads, [&](Team& team) {
    Arena arena(static_cast<char*>(workspace) + layout.shared_bytes +
                team.thread() * layout.thread_bytes);
    const auto own = layout.thread_part(p, arena);
    [[maybe_unused]] const typename Product::Scope scope;
    own.plan->largest_mask = 0;
    __builtin_memset(own.zeros, 0, layout.slabs[0].channels * sizeof(Pixel));
    team.for_each(p.groups * panels, [&](int64_t task) {
      const int64_t group = task / panels, output = task % panels * Product::kPanel;
      const int64_t first = group * layout.panel_outputs + output;
      const int64_t panel = smaller(Product::kPanel, layout.panel_outputs - output);
      pack_forward_weights<Product>(p, tensors.weight, group, output, panel, layout, own.panel,
                                    layout.weight + Product::kTerms * first * layout.group_depth,
                                    largest_weight);
      const int64_t outputs = smaller(panel, p.group_outputs() - output);
      T converted[Product::kPanel];
      const T* bias =
          read_row(tensors.bias, p.dtype, group * p.group_outputs() + output, outputs, converted);
      for (int64_t m = 0; m < panel; ++m) layout.bias[first + m] = m < outputs ? bias[m] : T(0);
    });
    for (int64_t first_image = 0; first_image < p.batch; first_image += layout.images) {
      const int64_t images = smaller(layout.images, p.batch - first_image);
      if (layout.copies_x) {
        copy_to_parts(p, tensors.x, layout.parts, first_image, images, team, layout.x,
                      [&](const Pixel* values, int64_t count) {
                        if constexpr (Product::kTerms > 1) largest_x.include(values, count);
                      });
      }
      if constexpr (Product::kTerms > 1) {
        if (!layout.copies_x) {
          constexpr int64_t kBlock = 1 << 14;
          team.for_each(ceil_div(images * image_size, kBlock), [&](int64_t task) {
            const int64_t first = task * kBlock;
            largest_x.include(static_cast<const T*>(tensors.x) + first_image * image_size + first,
                              smaller(kBlock, images * image_size - first));
          });
        }
      }
      team.for_each(images * tasks, [&](int64_t task) {
        const int64_t n = first_image + task / tasks, output = task % blocks * layout.outputs;
        const int64_t pixel = task % tasks / blocks * layout.pixels;
        const Pixel* x = layout.copies_x ? layout.x : static_cast<const Pixel*>(tensors.x);
        forward_pixels(p, tensors, layout, own, x + (n - first_image) * image_size, n, pixel,
                       smaller(layout.pixels, p.out_pixels() - pixel), output);
      });
    }
    largest_mask.include_bits(own.plan->largest_mask);
  });
  return Product::kTerms == 1 || largest_x.times(largest_mask).splits_with(largest_weight);
}

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

// The forward pass: sample a tile of output pixels, multiply it at once.
//
//   out[t][m] = bias[m] + sum over k of columns[t][k] * weight[k][m]
//
// For inference, the mask may come from its logits, out go through an activation, and the packed
// weights be those of an earlier call.
//
// Columns exist for one tile and a few taps at a time, in the second-level cache. A task computes
// several tiles, which share the weights of one slab while they are in that cache, too.
#pragma once

#include "activation-inl.h"
#include "pass-inl.h"

namespace dcn::cpu::DCN_ISA {

constexpr int64_t kColumnBlock = 640;  // elements of one pixel's columns at a time, about
constexpr int64_t kMaxPixels = 384;    // that one task computes
// About how many products of a pixel's columns with the weights of one output take as long as
// sampling the pixel, and as reading these weights anew.
constexpr int64_t kSampleCost = 64, kReadCost = 40;

// Few channels of all taps rather than all channels of few taps: the taps of a pixel sample nearly
// the same place, so that it stays in the cache.
inline int64_t forward_slab(const Problem& p) {
  return larger(16, smaller(kMaxSlab, kColumnBlock / p.taps() / 16 * 16));
}

// The images of forward passes.
template <typename Product>
struct ForwardImages {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;

  Slabs slabs;
  bool copies_x;         // it is not channels-last, or not of the product's type
  ChannelBlocks blocks;  // of x
  int64_t images;        // at a time
  Pixel* x;              // the copy, arranged in blocks
  T* mask;               // from its logits
  int64_t shared_bytes, thread_bytes;

  // keeps_pixels: of a channels-last x the copy is one, too, made in one row.
  ForwardImages(const Problem& p, const Slabs& slabs, bool keeps_pixels = false,
                int64_t copy_bytes = kCopyBytes)
      : slabs(slabs),
        copies_x(!p.reads_channels_last() || p.dtype != kDataType<Pixel>),
        blocks(p, slabs, copies_x && !(p.reads_channels_last() && keeps_pixels)),
        copied_(copies_x ? blocks.image_size() : 0),
        masks_(p.joined ? mask_planes(p) * p.out_pixels() : 0) {
    const int64_t bytes = copied_ * sizeof(Pixel) + masks_ * sizeof(T);
    images = bytes > 0 ? images_at_a_time(p, bytes, copy_bytes) : larger(1, p.batch);
  }

  void take_images(Arena& arena) {
    x = arena.take<Pixel>(images * copied_);
    mask = arena.take<T>(images * masks_);
  }

 private:
  int64_t copied_, masks_;  // elements of an image
};

// How the work is cut, and the workspace.
template <typename Product>
struct ForwardBuffers : ForwardImages<Product> {
  using Base = ForwardImages<Product>;
  using Base::slabs, Base::images, Base::shared_bytes, Base::thread_bytes;
  using typename Base::Pixel, typename Base::T;
  using Element = typename Product::Element;

  int64_t taps;
  int64_t panel_outputs;   // outputs of a group, padded
  int64_t packed_outputs;  // those in a row of its packed weights: not padded to one vector
  int64_t pixels, tile;    // output pixels in a task and in a tile, at most
  int64_t outputs;         // of a group, padded, in a task at most; all if there are several groups
  int64_t taps_at_a_time, column_stride, out_stride;
  int64_t slab_depth, group_depth;  // rows of the packed weights, padded: of a slab, of a group
  Element* weight;                  // per group and panel of outputs: packed [k][m]
  T* bias;
  uint32_t* largest_weight;  // magnitude, as bits

  ForwardBuffers(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads)
      : Base(p, {p, forward_slab(p)}), taps(p.taps()) {
    panel_outputs = round_up(p.group_outputs(), Product::kColumnStep);
    const bool narrow = !Product::kSplits && p.group_outputs() < Product::kColumnStep;
    packed_outputs = narrow ? p.group_outputs() : panel_outputs;
    const Slab widest = slabs[0];
    const int64_t tap_blocks = ceil_div(p.taps() * widest.channels, kColumnBlock);
    taps_at_a_time = ceil_div(p.taps(), smaller(tap_blocks, p.taps()));
    slab_depth = depth_of(widest.channels_per_group, p.taps());
    const int64_t before_last = slabs.slabs_per_group - 1;
    group_depth = before_last * slab_depth +
                  depth_of(p.group_channels() - before_last * widest.channels_per_group, p.taps());
    // A cache line more, so that the rows of a tile do not fall into the same cache sets.
    constexpr int64_t kLine = 64;
    column_stride = round_up(widest.groups * padded(taps_at_a_time * widest.channels_per_group),
                             kLine / static_cast<int64_t>(sizeof(Element))) +
                    kLine / static_cast<int64_t>(sizeof(Element));
    choose_task(p, threads, widest.groups);
    out_stride = widest.groups * outputs + kLine / static_cast<int64_t>(sizeof(T));
    const int64_t tiles = ceil_div(pixels, kMaxTile);
    tile = smaller(pixels, round_up(ceil_div(pixels, tiles), Product::kRowStep));
    Arena arena(workspace), kept(tensors.packed);
    this->take_images(arena);
    bias = arena.take<T>(p.groups * panel_outputs);
    take_weight(p, tensors.packed == nullptr ? arena : kept);
    shared_bytes = arena.used();
    thread_bytes = thread_buffers(nullptr).bytes;
  }

  // None of it depends on sizes of images.
  void take_weight(const Problem& p, Arena& arena) {
    // Of a row that is shorter than a vector, what follows is read and multiplied, too.
    weight = arena.take<Element>(p.groups * Product::kTerms * packed_outputs * group_depth +
                                 panel_outputs - packed_outputs);
    largest_weight = arena.take<uint32_t>(1);
  }

  struct ThreadBuffers {
    Columns<Product> columns;
    T *out, *origins, *panel;
    Pixel* zeros;
    SamplingPlan<T>* plan;
    int64_t bytes;
  };
  ThreadBuffers thread_buffers(void* memory) const {
    Arena arena(memory);
    ThreadBuffers own;
    const int64_t size = tile * column_stride;
    own.columns = {arena.take<Element>(Product::kTerms * size), column_stride, size};
    own.out = arena.take<T>(pixels * out_stride);
    own.origins = arena.take<T>(2 * kMaxTile);
    // One panel of a slab's weights before they are split.
    own.panel =
        arena.take<T>(Product::kSplits ? Product::kPanel * slabs.channels_per_group * taps : 0);
    own.zeros = arena.take<Pixel>(slabs[0].channels);
    own.plan = arena.take<SamplingPlan<T>>(1);
    own.bytes = arena.used();
    return own;
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
    return slab.group_offset / slabs.channels_per_group * slab_depth +
           tap / taps_at_a_time * padded(taps_at_a_time * slab.channels_per_group);
  }
  // The packed weights of a group from an output on that begins a panel.
  Element* weight_of(int64_t group, int64_t output) const {
    return weight + Product::kTerms * (group * packed_outputs + output) * group_depth;
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

// What forward passes share, whatever their buffers are.
template <typename Product, typename Buffers>
struct ForwardPhases : Pass<Product, ForwardTensors, Buffers> {
  using Base = Pass<Product, ForwardTensors, Buffers>;
  using Base::Base, Base::p, Base::buffers, Base::team;
  using Base::offset, Base::mask, Base::first_image, Base::images;
  using typename Base::T;

  void compute_mask() {
    const int64_t planes = mask_planes(p), pixels = p.out_pixels();
    mask = {buffers.mask, kDataType<T>, 1, p.taps(), planes, first_image};
    team.for_each(images * planes, [&](int64_t task) {
      T* const row = buffers.mask + task * pixels;
      const int64_t logits =
          offset.index(p, first_image + task / planes, 2 * planes + task % planes, 0);
      const T* source = read_row(offset.data, offset.dtype, logits, pixels, row);
      for (int64_t i = 0; i < pixels; ++i) row[i] = 1 / (1 + exponential(-source[i]));
    });
  }
};

template <typename Product>
struct ForwardPass : ForwardPhases<Product, ForwardBuffers<Product>> {
  using Base = ForwardPhases<Product, ForwardBuffers<Product>>;
  using Base::Base, Base::p, Base::tensors, Base::buffers, Base::largest, Base::team, Base::own;
  using Base::x, Base::offset, Base::mask, Base::tile, Base::first_image, Base::images;
  using typename Base::Element, typename Base::Pixel, typename Base::T;

  void run() {
    pack_weights();
    this->for_images([&] {
      if (p.joined) this->compute_mask();
      if (buffers.copies_x) {
        this->copy_x();
      } else if constexpr (Product::kTerms > 1) {
        measure_x();
      }
      compute();
    });
  }

  void pack_weights() {
    const int64_t panels = ceil_div(buffers.panel_outputs, Product::kPanel);
    const bool packs = tensors.packed == nullptr || tensors.packs;
    if (!packs) largest.weight.include_bits(*buffers.largest_weight);
    team.for_each(p.groups * panels, [&](int64_t task) {
      const int64_t group = task / panels, output = task % panels * Product::kPanel;
      const int64_t panel = smaller(Product::kPanel, buffers.panel_outputs - output);
      if (packs) pack_panel(group, output, smaller(panel, buffers.packed_outputs - output));
      const int64_t outputs = smaller(panel, p.group_outputs() - output);
      T converted[Product::kPanel];
      const T* source =
          read_row(tensors.bias, p.dtype, group * p.group_outputs() + output, outputs, converted);
      T* const bias = buffers.bias + group * buffers.panel_outputs + output;
      for (int64_t m = 0; m < panel; ++m) bias[m] = m < outputs ? source[m] : T(0);
    });
  }

  void measure_x() {
    constexpr int64_t kBlock = 1 << 14;
    const int64_t size = images * buffers.blocks.image_size();
    team.for_each(ceil_div(size, kBlock), [&](int64_t task) {
      largest.x.include(x + task * kBlock, smaller(kBlock, size - task * kBlock));
    });
  }

  void compute() {
    const int64_t output_blocks = ceil_div(buffers.panel_outputs, buffers.outputs);
    const int64_t tasks = ceil_div(p.out_pixels(), buffers.pixels) * output_blocks;  // of an image
    team.for_each(images * tasks, [&](int64_t task) {
      const int64_t pixel = task % tasks / output_blocks * buffers.pixels;
      compute_pixels(first_image + task / tasks, pixel,
                     smaller(buffers.pixels, p.out_pixels() - pixel),
                     task % output_blocks * buffers.outputs);
    });
  }

 private:
  // Of one group and panel of outputs, slab by slab.
  void pack_panel(int64_t group, int64_t output, int64_t panel) {
    const int64_t taps = p.taps(), step = buffers.slabs.channels_per_group;
    Element* const packed = buffers.weight_of(group, output);
    for (int64_t channel = 0; channel < p.group_channels(); channel += step) {
      const int64_t channels = smaller(step, p.group_channels() - channel);
      Element* target = packed + channel / step * buffers.slab_depth * panel * Product::kTerms;
      if constexpr (!Product::kSplits) {
        order_weights(p, tensors.weight, group, output, panel, channel, channels, target);
      } else {
        order_weights(p, tensors.weight, group, output, panel, channel, channels, own.panel);
        if (Product::kTerms > 1) largest.weight.include(own.panel, channels * taps * panel);
        for (int64_t tap = 0; tap < taps; tap += buffers.taps_at_a_time) {
          const int64_t depth = smaller(buffers.taps_at_a_time, taps - tap) * channels;
          Product::pack(depth, panel, own.panel + tap * channels * panel, panel, target);
          target += buffers.padded(depth) * panel * Product::kTerms;
        }
      }
    }
  }

  // Of one image the output pixels [pixel, pixel + pixels), of each group the outputs from `output`
  // on: every slab, a few taps at a time, tile after tile, then to their place in memory.
  void compute_pixels(int64_t image, int64_t pixel, int64_t pixels, int64_t output) {
    const int64_t taps = p.taps();
    const int64_t outputs = smaller(buffers.outputs, buffers.panel_outputs - output);
    for (int64_t s = 0; s < buffers.slabs.count; ++s) {
      const Slab slab = buffers.slabs[s];
      if (slab.group_offset == 0) {
        const T* bias = buffers.bias + slab.group * buffers.panel_outputs + output;
        for (int64_t t = 0; t < pixels; ++t) {
          __builtin_memcpy(own.out + t * buffers.out_stride, bias,
                           slab.groups * outputs * sizeof(T));
        }
      }
      for (int64_t first = 0; first < taps; first += buffers.taps_at_a_time) {
        const int64_t count = smaller(buffers.taps_at_a_time, taps - first);
        for (int64_t start = 0; start < pixels; start += buffers.tile) {
          set_tile(p, image, pixel + start, smaller(buffers.tile, pixels - start), tile);
          multiply_columns(slab, first, count, output, outputs,
                           own.out + start * buffers.out_stride);
        }
      }
      if (slab.group_offset + slab.channels_per_group == p.group_channels()) {
        activate(p, pixels, slab.groups * outputs, own.out, buffers.out_stride);
        for (int64_t g = 0; g < slab.groups; ++g) {
          const int64_t first_output = (slab.group + g) * p.group_outputs() + output;
          from_channels_last(
              own.out + g * outputs, buffers.out_stride,
              {image, first_output, smaller(outputs, p.group_outputs() - output), pixel, pixels},
              like_out(p, tensors.out));
        }
      }
    }
  }

  // Samples the columns of a slab and the taps [first, first + count) in the tile, and adds their
  // product with `outputs` outputs' weights to `out`.
  void multiply_columns(const Slab& slab, int64_t first, int64_t count, int64_t output,
                        int64_t outputs, T* out) {
    const int64_t depth = count * slab.channels_per_group;
    const ColumnLayout layout{slab.channels_per_group, buffers.padded(depth)};
    this->sample(slab, first, count, layout, own.columns);
    clear_padding(own.columns, tile.count, slab.groups, depth, layout.group_stride);
    for (int64_t g = 0; g < slab.groups; ++g) {
      Product::multiply(tile.count, outputs, depth,
                        Product::left(own.columns.data + g * layout.group_stride,
                                      own.columns.stride, own.columns.term_stride),
                        {buffers.weight_of(slab.group + g, output), buffers.group_depth,
                         buffers.weight_row(slab, first), buffers.packed_outputs},
                        {out + g * outputs, buffers.out_stride});
    }
  }
};

// Returns false, the result being wrong, where the product is not accurate.
template <typename Product>
bool forward(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads) {
  const ForwardBuffers<Product> buffers(p, tensors, workspace, threads);
  const Largest largest =
      run_pass<ForwardPass<Product>, Product>(p, tensors, buffers, workspace, threads);
  if (tensors.packed != nullptr && tensors.packs) *buffers.largest_weight = largest.weight.bits();
  return Product::kTerms == 1 ||
         largest.x.times(largest.mask).split_is_accurate_with(largest.weight);
}

}  // namespace dcn::cpu::DCN_ISA

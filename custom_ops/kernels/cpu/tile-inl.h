// How the work is cut: channels into slabs, output pixels into tiles, and the sampling plan of one
// (tap, deformable group) over the pixels of a tile.
#pragma once

#include "exponential-inl.h"
#include "layout-inl.h"
#include "magnitude-inl.h"

namespace dcn::cpu::DCN_ISA {

// Consecutive channels that are sampled together: some of one group, or several whole groups.
struct Slab {
  int64_t channel, channels;  // the channels [channel, channel + channels)
  int64_t group, groups;      // the groups they belong to
  // In each of these groups, the channels [group_offset, group_offset + channels_per_group).
  int64_t group_offset, channels_per_group;
};

// The partition into slabs of about `width` channels. It depends on nothing but its arguments.
struct Slabs {
  int64_t groups, group_channels;
  int64_t slabs_per_group, channels_per_group;  // where a group is wider than a slab
  int64_t groups_per_slab;                      // else
  int64_t count;

  Slabs(const Problem& p, int64_t width) : groups(p.groups), group_channels(p.group_channels()) {
    const int64_t even = ceil_div(group_channels, ceil_div(group_channels, width));
    channels_per_group = smaller(group_channels, round_up(even, 16));
    slabs_per_group = ceil_div(group_channels, channels_per_group);
    groups_per_slab = smaller(groups, larger(1, width / group_channels));
    count = slabs_per_group > 1 ? groups * slabs_per_group : ceil_div(groups, groups_per_slab);
  }

  DCN_INLINE_MEMBER Slab operator[](int64_t i) const {
    if (slabs_per_group > 1) {
      const int64_t group = i / slabs_per_group;
      const int64_t offset = i % slabs_per_group * channels_per_group;
      const int64_t channels = smaller(channels_per_group, group_channels - offset);
      return {group * group_channels + offset, channels, group, 1, offset, channels};
    }
    const int64_t group = i * groups_per_slab;
    const int64_t count_here = smaller(groups_per_slab, groups - group);
    return {group * group_channels, count_here * group_channels, group, count_here, 0,
            group_channels};
  }
};

// The deformable groups that a slab's channels belong to: [first, last].
struct GroupRange {
  int64_t first, last;
};
DCN_INLINE GroupRange deformable_range(const Problem& p, const Slab& slab) {
  return {slab.channel / p.deformable_channels(),
          (slab.channel + slab.channels - 1) / p.deformable_channels()};
}

// Output pixels [pixel, pixel + count) of one image, and where their windows start.
template <typename T>
struct Tile {
  int64_t image, pixel, count;
  T* origin_y;  // [kMaxTile], of tap 0, see tap_origin(); in pixels
  T* origin_x;
};

// f(t, i, j) for the output pixels (i, j) from `pixel` on.
template <typename F>
DCN_INLINE void for_pixels(const Problem& p, int64_t pixel, int64_t count, F f) {
  int64_t i = pixel / p.out_width, j = pixel % p.out_width;
  for (int64_t t = 0; t < count; ++t) {
    f(t, i, j);
    if (++j == p.out_width) {
      j = 0;
      ++i;
    }
  }
}

constexpr int64_t kMaxTile = 96;  // a multiple of every product's kRows

template <typename T>
void set_tile(const Problem& p, int64_t image, int64_t pixel, int64_t count, Tile<T>& tile) {
  tile.image = image;
  tile.pixel = pixel;
  tile.count = count;
  for_pixels(p, pixel, count, [&](int64_t t, int64_t i, int64_t j) {
    tile.origin_y[t] = static_cast<T>(tap_origin(i, 0, p.stride_h, p.pad_top, p.dilation_h));
    tile.origin_x[t] = static_cast<T>(tap_origin(j, 0, p.stride_w, p.pad_left, p.dilation_w));
  });
}

// Whether T may not hold the origin of tap 0 exactly, although it holds that of some other tap.
template <typename T>
DCN_INLINE bool has_far_origins(const Problem& p) {
  constexpr int64_t kExact = sizeof(T) == sizeof(float) ? int64_t{1} << 24 : int64_t{1} << 53;
  return p.height + p.pad_top + p.pad_bottom > kExact ||
         p.width + p.pad_left + p.pad_right > kExact;
}

// A channels-last image: one pixel's channels are contiguous, pixels are `stride` elements apart.
// Corners outside it are read from, or written to, `outside`, which is one pixel long.
template <typename T>
struct Image {
  T* data;
  int64_t height, width, stride;
  T* outside;
};

// How x, a copy of it, or its gradient is arranged: [image][block][pixel][channel]. Of a copy a
// block is a slab, or a deformable group where that is narrower: then all that one sample reads is
// contiguous, and neighbouring pixels share cache lines. x itself is one block.
struct ChannelBlocks {
  Slabs slabs;
  int64_t channels, pixels;  // of an image
  int64_t width;             // channels of a block, 0 if blocks are slabs
  int64_t count;

  ChannelBlocks(const Problem& p, const Slabs& slabs, bool copy)
      : slabs(slabs), channels(p.channels), pixels(p.in_pixels()), width(0), count(slabs.count) {
    if (copy && p.deformable_channels() >= slabs[0].channels) return;
    width = copy ? p.deformable_channels() : channels;
    count = channels / width;
  }

  int64_t image_size() const { return channels * pixels; }

  // All pixels of one block.
  DCN_INLINE_MEMBER Region operator[](int64_t i) const {
    if (width > 0) return {0, i * width, width, 0, pixels};
    return {0, slabs[i].channel, slabs[i].channels, 0, pixels};
  }
  // Where pixels of a block, with all its channels, begin.
  DCN_INLINE_MEMBER int64_t at(const Region& r) const {
    return r.image * image_size() + r.channel * pixels + r.pixel * r.channels;
  }
};

// What the samples of a slab's channels in one deformable group are taken from, such that its
// channel 0 is the slab's first. `data` is one image.
template <typename T>
Image<T> block_image(const Problem& p, const ChannelBlocks& blocks, T* data, const Slab& slab,
                     int64_t deformable_group, T* outside) {
  int64_t first = slab.channel, stride = slab.channels;
  if (blocks.width > 0) {
    first = deformable_group * p.deformable_channels() / blocks.width * blocks.width;
    stride = blocks.width;
  }
  return {data + first * p.in_pixels() + slab.channel - first, p.height, p.width, stride, outside};
}

// Where and with which weights each pixel of a tile samples for one tap and deformable group.
template <typename T>
struct SamplingPlan {
  int64_t corner[kMaxTile];  // pixel of the image that is the top-left corner
  int32_t inside[kMaxTile];  // which sides of the corners' square lie inside the image
  T ly[kMaxTile], lx[kMaxTile], mask[kMaxTile];
  T w00[kMaxTile], w01[kMaxTile], w10[kMaxTile], w11[kMaxTile];  // corner weights times mask
  uint32_t largest_mask;  // of all that were planned with it, as bits; of float only
  bool infinite_masks;    // whether there are any
};

enum Side : int32_t { kTop = 1, kBottom = 2, kLeft = 4, kRight = 8, kAllSides = 15 };

// Offsets, masks or flow, image after image: planes of output pixels, or see Problem::planes_last.
// Void is void or const void.
template <typename Void>
struct Planes {
  Void* data;
  DataType dtype;
  int64_t of_tap;           // y and x, or the mask alone
  int64_t of_group;         // of a deformable group, also those in between
  int64_t count;            // of an image
  int64_t first_image = 0;  // that the data begin with
  int64_t first_plane = 0;

  // The plane of a tap's y (which = 0), x (1) or mask (0).
  DCN_INLINE_MEMBER int64_t plane(const Problem& p, int64_t deformable_group, int64_t tap,
                                  int64_t which) const {
    const int64_t before = first_plane + deformable_group * of_group;
    if (!p.planes_last) return before + tap * of_tap + which;
    const int64_t down = tap % p.kernel_w * p.kernel_h + tap / p.kernel_w;
    return before + down * of_tap + (of_tap - 1 - which);
  }
  DCN_INLINE_MEMBER int64_t index(const Problem& p, int64_t image, int64_t plane,
                                  int64_t pixel) const {
    const int64_t first = (image - first_image) * count * p.out_pixels();
    return first + (p.planes_last ? pixel * count + plane : plane * p.out_pixels() + pixel);
  }
  // Pixels of a plane from an index on, like read_row() and write_row().
  template <typename T>
  const T* read(const Problem& p, int64_t index, int64_t pixels, T* converted) const {
    if (!p.planes_last) {
      prefetch_row(data, dtype, index + of_tap * p.out_pixels(), pixels);  // of the next tap
      return read_row(data, dtype, index, pixels, converted);
    }
    read_strided(data, dtype, index, count, pixels, converted);
    return converted;
  }
  template <typename T>
  void write(const Problem& p, const T* row, int64_t pixels, int64_t index) const {
    if (!p.planes_last) return write_row(row, pixels, data, dtype, index);
    write_strided(row, pixels, data, dtype, index, count);
  }
};
DCN_INLINE int64_t mask_planes(const Problem& p) { return p.deformable_groups * p.taps(); }
template <typename Void>
Planes<Void> like_offset(const Problem& p, Void* offset) {
  if (p.packed_planes) return {offset, p.offset_dtype, 2, 3 * p.taps(), p.packed_planes};
  return {offset, p.offset_dtype, 2, 2 * p.taps(), (p.joined ? 3 : 2) * mask_planes(p)};
}
template <typename Void>
Planes<Void> like_mask(const Problem& p, Void* offset, Void* mask) {
  if (!p.packed_planes) return {mask, p.offset_dtype, 1, p.taps(), mask_planes(p)};
  return {offset, p.offset_dtype, 1, 3 * p.taps(), p.packed_planes, 0, 2 * p.taps()};
}

inline Planes<const void> like_flow(const Problem& p, const void* data) {
  return {data, p.offset_dtype, 2, 2, 2 * p.flows};
}

template <typename T>
DCN_INLINE bool is_infinite(T v) {
  constexpr T kLargest = std::numeric_limits<T>::max();
  return (v > kLargest) | (v < -kLargest);
}

// What inference makes of offsets along an axis (0: y, 1: x): either these or `refined`.
template <typename T>
const T* refine(const Problem& p, const Planes<const void>& flow, const Tile<T>& tile,
                int64_t deformable_group, int64_t axis, const T* offset, T* refined) {
  if (p.offset_bound > 0) {
    const T bound = static_cast<T>(p.offset_bound);
    for (int64_t t = 0; t < tile.count; ++t) refined[t] = bound * hyperbolic_tangent(offset[t]);
    offset = refined;
  }
  if (p.flows > 0) {
    T converted[kMaxTile];
    const int64_t plane = 2 * (deformable_group * p.flows / p.deformable_groups) + axis;
    const int64_t index = flow.index(p, tile.image, plane, tile.pixel);
    const T* const added = read_row(flow.data, flow.dtype, index, tile.count, converted);
    for (int64_t t = 0; t < tile.count; ++t) refined[t] = offset[t] + added[t];
    offset = refined;
  }
  return offset;
}

template <typename T>
void plan_samples(const Problem& p, const Planes<const void>& offset,
                  const Planes<const void>& mask, const Planes<const void>& flow,
                  const Tile<T>& tile, int64_t deformable_group, int64_t tap,
                  SamplingPlan<T>& plan) {
  T converted_y[kMaxTile], converted_x[kMaxTile], converted_mask[kMaxTile];
  const int64_t count = tile.count;
  const auto read = [&](const Planes<const void>& planes, int64_t which, T* converted) {
    const int64_t plane = planes.plane(p, deformable_group, tap, which);
    return planes.read(p, planes.index(p, tile.image, plane, tile.pixel), count, converted);
  };
  const T* dy = read(offset, 0, converted_y);
  const T* dx = read(offset, 1, converted_x);
  dy = refine(p, flow, tile, deformable_group, 0, dy, converted_y);
  dx = refine(p, flow, tile, deformable_group, 1, dx, converted_x);
  const T* m = converted_mask;
  if (p.modulated) {
    m = read(mask, 0, converted_mask);
  } else {
    for (int64_t t = 0; t < count; ++t) converted_mask[t] = T(1);
  }
  const int64_t tap_i = tap / p.kernel_w, tap_j = tap % p.kernel_w;
  T tap_y = static_cast<T>(tap_i * p.dilation_h), tap_x = static_cast<T>(tap_j * p.dilation_w);
  const T *origin_y = tile.origin_y, *origin_x = tile.origin_x;
  T exact_y[kMaxTile], exact_x[kMaxTile];
  if (__builtin_expect(has_far_origins<T>(p), 0)) {
    for_pixels(p, tile.pixel, count, [&](int64_t t, int64_t i, int64_t j) {
      exact_y[t] = static_cast<T>(tap_origin(i, tap_i, p.stride_h, p.pad_top, p.dilation_h));
      exact_x[t] = static_cast<T>(tap_origin(j, tap_j, p.stride_w, p.pad_left, p.dilation_w));
    });
    origin_y = exact_y;
    origin_x = exact_x;
    tap_y = tap_x = 0;
  }
  // At most 2^31 - 2 of them. With 64 bits the loop would take a third longer.
  const int32_t rows = static_cast<int32_t>(p.height), columns = static_cast<int32_t>(p.width);
  const T height = static_cast<T>(rows), width = static_cast<T>(columns);
  int32_t infinite = 0;
  for (int64_t t = 0; t < count; ++t) {
    const Sample<T> s =
        locate(origin_y[t] + tap_y + dy[t], origin_x[t] + tap_x + dx[t], height, width);
    plan.corner[t] = static_cast<int64_t>(s.y0) * columns + s.x0;
    plan.inside[t] = (s.y0 >= 0 ? kTop : 0) | (((s.y0 >= -1) & (s.y0 + 1 < rows)) ? kBottom : 0) |
                     (s.x0 >= 0 ? kLeft : 0) | (((s.x0 >= -1) & (s.x0 + 1 < columns)) ? kRight : 0);
    plan.ly[t] = s.ly;
    plan.lx[t] = s.lx;
    // What samples nothing contributes 0 whatever its mask value is: NaN must not come through.
    const T factor = s.y0 == -2 ? T(0) : m[t];
    plan.mask[t] = factor;
    infinite |= is_infinite(factor) ? 1 : 0;
    const CornerWeights<T> w = corner_weights(s.ly, s.lx);
    plan.w00[t] = w.w00 * factor;
    plan.w01[t] = w.w01 * factor;
    plan.w10[t] = w.w10 * factor;
    plan.w11[t] = w.w11 * factor;
  }
  plan.infinite_masks = infinite != 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    const uint32_t largest = largest_magnitude(plan.mask, count);
    plan.largest_mask = largest > plan.largest_mask ? largest : plan.largest_mask;
  }
}

// The channels of the four corners of a sample.
template <typename T>
struct Corners {
  T *p00, *p01, *p10, *p11;

  DCN_INLINE_MEMBER Corners moved_by(int64_t channels) const {
    return {p00 + channels, p01 + channels, p10 + channels, p11 + channels};
  }
};

template <typename T, typename P>
DCN_INLINE Corners<T> find_corners(const Image<T>& image, const SamplingPlan<P>& plan, int64_t t) {
  const int32_t inside = plan.inside[t];
  T* const above = image.data + plan.corner[t] * image.stride;
  T* const below = above + image.width * image.stride;
  Corners<T> c{above, above + image.stride, below, below + image.stride};
  if (__builtin_expect(inside != kAllSides, 0)) {
    const auto choose = [&](T* p, int32_t sides) {
      return (inside & sides) == sides ? p : image.outside;
    };
    c = {choose(c.p00, kTop | kLeft), choose(c.p01, kTop | kRight), choose(c.p10, kBottom | kLeft),
         choose(c.p11, kBottom | kRight)};
  }
  return c;
}

// Where a slab's sampled values stand in one row (pixel) of the columns: group by group, within a
// group tap by tap, within a tap channel by channel.
struct ColumnLayout {
  int64_t channels_per_group;
  int64_t group_stride;  // elements from one group to the next

  DCN_INLINE_MEMBER int64_t at(int64_t group, int64_t tap, int64_t channel) const {
    return group * group_stride + tap * channels_per_group + channel;
  }
};

// Channels that are sampled alike: `repeats` times `count` channels of a slab, the first of which
// is `channel`, counted from the slab's first. Each `count` channels stand side by side in the
// columns, the first at `column`, the next `column_step` further on, in the next group.
struct Run {
  int64_t channel, column, count, repeats, column_step;
};
struct Runs {
  int64_t count;
  Run run[3];  // what a deformable group has of a group at its start, of whole groups, at its end
};

inline Runs find_runs(const Problem& p, const Slab& slab, const ColumnLayout& layout,
                      int64_t deformable_group, int64_t tap) {
  const int64_t width = p.deformable_channels(), width_in_group = slab.channels_per_group;
  const int64_t end = smaller((deformable_group + 1) * width - slab.channel, slab.channels);
  int64_t channel = larger(deformable_group * width - slab.channel, 0);
  Runs runs{0, {}};
  while (channel < end) {
    const int64_t group = channel / width_in_group, within = channel % width_in_group;
    const int64_t count = smaller(end - channel, width_in_group - within);
    const int64_t repeats = within == 0 ? larger(1, (end - channel) / width_in_group) : 1;
    runs.run[runs.count++] = {channel, layout.at(group, tap, within), count, repeats,
                              layout.group_stride};
    channel += count * repeats;
  }
  return runs;
}

// How a run of channels is cut into vectors: kPieces of kLanes, or any number (0) of full vectors,
// or full vectors and a tail (-1). Knowing it outside the loop over pixels halves what a short run
// costs. Repeats of a few channels go through one row in which they stand side by side (kGathers):
// with one channel in a group nothing would be a vector else.
template <int kLanes, int kPieces, bool gathers = false>
struct RunShape {
  static constexpr bool kGathers = gathers;

  template <typename F>
  DCN_INLINE_MEMBER void for_vectors(int64_t count, F f) const {
    if constexpr (kPieces > 0) {
      for (int i = 0; i < kPieces; ++i) f(Constant<kLanes>(), i * kLanes);
    } else if constexpr (kPieces == 0) {
      for (int64_t c = 0; c < count; c += kLanes) f(Constant<kLanes>(), c);
    } else {
      for_lanes<kLanes>(count, f);
    }
  }
};

constexpr int64_t kMaxSlab = 512;  // channels of several groups

template <int kFull, typename F>
DCN_INLINE void with_run_shape(const Run& run, F f) {
  constexpr int kHalf = kFull / 2, kQuarter = kFull > 4 ? kFull / 4 : 1;
  const int64_t count = run.count;
  if (count == kFull) {
    f(RunShape<kFull, 1>());
  } else if (count == 2 * kFull) {
    f(RunShape<kFull, 2>());
  } else if (count % kFull == 0) {
    f(RunShape<kFull, 0>());
  } else if (count == kHalf) {
    f(RunShape<kHalf, 1>());
  } else if (count == kQuarter) {
    f(RunShape<kQuarter, 1>());
  } else if (count < kFull && run.repeats > 1) {
    f(RunShape<kFull, -1, true>());
  } else {
    f(RunShape<kFull, -1>());
  }
}

template <typename T, int kTerms>
struct GatheredRow {
  T data[kTerms * kMaxSlab];
};
template <typename T>
struct GatheredRow<T, 0> {};

// Copies what stands in the repeats of a run of columns to a row of them side by side, or back. In
// this order of the loops none of them is a call of memcpy for a few bytes.
template <typename T>
DCN_INLINE void gather_columns(const Run& run, const T* columns, T* row) {
  for (int64_t c = 0; c < run.count; ++c) {
    for (int64_t i = 0; i < run.repeats; ++i) {
      row[i * run.count + c] = columns[i * run.column_step + c];
    }
  }
}
template <typename T>
DCN_INLINE void spread_columns(const Run& run, const T* row, T* columns) {
  for (int64_t c = 0; c < run.count; ++c) {
    for (int64_t i = 0; i < run.repeats; ++i) {
      columns[i * run.column_step + c] = row[i * run.count + c];
    }
  }
}

// A product's left operand while it is sampled: [term][pixel][column].
template <typename Product>
struct Columns {
  typename Product::Element* data;
  int64_t stride, term_stride;
};

// columns[t][...] = mask * S for a run of channels of one tap, t over the tile.
template <typename Product, typename Shape, typename T, typename Pixel>
__attribute__((noinline)) void sample_run(Shape shape, const SamplingPlan<T>& plan, int64_t pixels,
                                          const Image<const Pixel>& image, const Run& run,
                                          Columns<Product> columns) {
  using Element = typename Product::Element;
  const int64_t count = Shape::kGathers ? run.repeats * run.count : run.count;
  const int64_t repeats = Shape::kGathers ? 1 : run.repeats, column_step = run.column_step;
  const int64_t term_stride = Shape::kGathers ? kMaxSlab : columns.term_stride;
  const Image<const Pixel> channels{image.data + run.channel, image.height, image.width,
                                    image.stride, image.outside};
  [[maybe_unused]] GatheredRow<Element, Shape::kGathers ? Product::kTerms : 0> gathered;
  Element* row = columns.data + run.column;
  for (int64_t t = 0; t < pixels; ++t) {
    Corners<const Pixel> corner = find_corners(channels, plan, t);
    const T w00 = plan.w00[t], w01 = plan.w01[t], w10 = plan.w10[t], w11 = plan.w11[t];
    Element* target = row;
    if constexpr (Shape::kGathers) target = gathered.data;
    for (int64_t i = 0; i < repeats; ++i) {
      shape.for_vectors(count, [&](auto lanes, int64_t c) {
        constexpr int kLanes = decltype(lanes)::value;
        Product::template store_terms<kLanes>(
            target + c, term_stride,
            w00 * Product::template load<kLanes>(corner.p00 + c) +
                w01 * Product::template load<kLanes>(corner.p01 + c) +
                w10 * Product::template load<kLanes>(corner.p10 + c) +
                w11 * Product::template load<kLanes>(corner.p11 + c));
      });
      corner = corner.moved_by(count);
      target += column_step;
    }
    if constexpr (Shape::kGathers) {
      for (int term = 0; term < Product::kTerms; ++term) {
        spread_columns(run, gathered.data + term * kMaxSlab, row + term * columns.term_stride);
      }
    }
    row += columns.stride;
  }
}

// An infinite mask value is a factor of the sample, not of its corners, of which some are 0, count
// 0, or differ in sign: that would be NaN. These two put it there.
template <typename T>
void take_infinite_masks(SamplingPlan<T>& plan, int64_t pixels) {
  for (int64_t t = 0; t < pixels; ++t) {
    if (!is_infinite(plan.mask[t])) continue;
    const CornerWeights<T> w = corner_weights(plan.ly[t], plan.lx[t]);
    plan.w00[t] = w.w00;
    plan.w01[t] = w.w01;
    plan.w10[t] = w.w10;
    plan.w11[t] = w.w11;
  }
}
template <typename Product, typename T>
void multiply_infinite_masks(const SamplingPlan<T>& plan, int64_t pixels, const Runs& runs,
                             Columns<Product> columns) {
  using Element = typename Product::Element;
  for (int64_t t = 0; t < pixels; ++t) {
    if (!is_infinite(plan.mask[t])) continue;
    for (int64_t i = 0; i < runs.count; ++i) {
      const Run& run = runs.run[i];
      for (int64_t j = 0; j < run.repeats * run.count; ++j) {
        Element& column = columns.data[t * columns.stride + run.column +
                                       j / run.count * run.column_step + j % run.count];
        column = Element(static_cast<T>(column) * plan.mask[t]);
      }
    }
  }
}

template <typename Product, typename T, typename Pixel>
void sample_columns(SamplingPlan<T>& plan, int64_t pixels, const Image<const Pixel>& image,
                    const Runs& runs, Columns<Product> columns) {
  // With several terms the product is not accurate, and what an engine before it gives counts.
  const bool infinite = Product::kTerms == 1 && plan.infinite_masks;
  if (__builtin_expect(infinite, 0)) take_infinite_masks(plan, pixels);
  for (int64_t i = 0; i < runs.count; ++i) {
    with_run_shape<Product::kSampleLanes>(runs.run[i], [&](auto shape) {
      sample_run(shape, plan, pixels, image, runs.run[i], columns);
    });
  }
  if (__builtin_expect(infinite, 0)) multiply_infinite_masks(plan, pixels, runs, columns);
}

}  // namespace dcn::cpu::DCN_ISA

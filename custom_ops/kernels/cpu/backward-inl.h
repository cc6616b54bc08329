// The backward pass.
//
// Channels are cut into slabs. Two products, each as large as the forward one:
//   gradient of the columns   grad_columns[t][k] = sum over m of grad_out[m][t] * weight[m][k]
//   gradient of the weight    grad_weight[m][k]  = sum over n, t of grad_out[m][t] * columns[t][k]
// One task owns a slab of one image, or a slab and some taps of the weight gradient, and walks the
// pixels in order: nothing is written by two tasks, every sum has a fixed order, and results do
// not depend on the number of threads.
#pragma once

#include "forward-inl.h"

namespace dcn {
namespace cpu {
namespace DCN_ISA {

constexpr int64_t kBandBytes = 32 << 20;    // of what is held of a band of tiles, about
constexpr int64_t kPartialBytes = 8 << 20;  // of it partial sums, which should stay in a cache
constexpr int64_t kTileBytes = 1 << 20;     // of one tile's columns, about
constexpr int64_t kOutputBlock = 16;        // outputs that are moved between layouts at a time

// A slab must not be much wider than a register panel: its image and gradient stay in the cache.
// Where products are fast, reading grad_out for each slab weighs more, if there are enough tasks.
template <typename Product>
int64_t backward_slab(const Problem& p) {
  return Product::kSplits && p.batch * p.channels >= 256 ? 64 : 32;
}

template <typename Product>
struct BackwardLayout {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  using Element = typename Product::Element;

  Slabs slabs;
  Parts parts;  // of x and its gradient
  bool columns_wanted, coordinates_wanted, x_wanted, weight_wanted, bias_wanted;
  bool sums_partials;  // some deformable group's channels are in several slabs
  int64_t images;      // at a time
  int64_t tile;        // output pixels in a tile
  int64_t tiles;       // in an image
  int64_t band;        // tiles of each image that are worked on at a time
  int64_t taps_in_part, tap_parts;
  int64_t group_outputs, padded_outputs;  // of a group
  int64_t group_columns, part_columns;    // of a group in a slab, padded, and with taps_in_part
  int64_t column_stride, shared_bytes, thread_bytes;
  Pixel* x;             // arranged in parts
  T* grad_x;            // the same
  Element* grad_out;    // [image][tile of the band][term][m][pixel]
  Element* grad_pixel;  // [image][tile][term][pixel][padded m], where the product splits
  Element* weight;      // per group of each slab: packed [m][columns]
  T* grad_weight;       // per group, slab and part: [m][columns]
  T* partials;          // [image][slab + deformable group][tap][y, x, mask][pixel of the band]

  BackwardLayout(const Problem& p, const BackwardTensors& wanted, void* workspace, int threads)
      : slabs(p, backward_slab<Product>(p)), parts(p, slabs), group_outputs(p.group_outputs()) {
    x_wanted = wanted.grad_x != nullptr;
    coordinates_wanted = wanted.grad_offset != nullptr || wanted.grad_mask != nullptr;
    columns_wanted = x_wanted || coordinates_wanted;
    weight_wanted = wanted.grad_weight != nullptr;
    bias_wanted = wanted.grad_bias != nullptr;
    const Slab widest = slabs[0];
    taps_in_part = choose_taps(p.taps(), threads);
    tap_parts = ceil_div(p.taps(), taps_in_part);
    group_columns = columns_in_group(widest, p.taps());
    part_columns = columns_in_group(widest, taps_in_part);
    column_stride = widest.groups * group_columns;
    const int64_t fitting = kTileBytes / (column_stride * static_cast<int64_t>(sizeof(T)));
    tile = smaller(kMaxTile, larger(1, fitting / Product::kRows) * Product::kRows);
    tiles = ceil_div(p.out_pixels(), tile);
    padded_outputs = round_up(group_outputs, Product::kDepthStep);
    const int64_t x_size = p.channels * p.in_pixels();
    sums_partials = coordinates_wanted && shares_deformable_groups(p);
    const int64_t grad_out_size = grad_out_tile_size(p);
    const int64_t grad_pixel_size =
        Product::kSplits && columns_wanted ? grad_pixel_tile_size(p) : 0;
    const int64_t partials_size = sums_partials ? partial_rows(p) * tile : 0;
    // The order of the weight gradient's sums depends on both, so they do not on the threads.
    const int64_t tile_bytes =
        (grad_out_size + grad_pixel_size) * sizeof(Element) + partials_size * sizeof(T);
    images = images_at_a_time(
        p, larger(x_size * (sizeof(Pixel) + sizeof(T)), kCopyBytes / kBandBytes * tile_bytes));
    const int64_t partial_bytes = larger(1, partials_size * sizeof(T));
    band = larger(1, smaller(smaller(tiles, kBandBytes / (images * tile_bytes)),
                             kPartialBytes / (images * partial_bytes)));
    Arena arena(workspace);
    x = arena.take<Pixel>(columns_wanted || weight_wanted ? images * x_size : 0);
    grad_x = arena.take<T>(x_wanted ? images * x_size : 0);
    grad_out = arena.take<Element>(images * band * grad_out_size);
    grad_pixel = arena.take<Element>(images * band * grad_pixel_size);
    weight = arena.take<Element>(columns_wanted ? weight_at(slabs.count, 0) : 0);
    grad_weight = arena.take<T>(weight_wanted ? grad_weight_at(slabs.count * tap_parts, 0) : 0);
    partials = arena.take<T>(images * band * partials_size);
    shared_bytes = arena.used();
    Arena own(nullptr);
    thread_part(p, own);
    thread_bytes = own.used();
  }

  struct ThreadPart {
    T *columns, *grad_columns, *origins, *row, *block;
    Element* packed;
    Pixel* zeros;
    T* sink;
    Plan<T>* plan;
  };
  ThreadPart thread_part(const Problem& p, Arena& arena) const {
    ThreadPart part;
    part.columns = arena.take<T>(weight_wanted ? tile * column_stride : 0);
    part.grad_columns = arena.take<T>(columns_wanted ? tile * column_stride : 0);
    part.packed = arena.take<Element>(
        Product::kSplits && weight_wanted ? Product::kTerms * tile * part_columns : 0);
    part.origins = arena.take<T>(2 * kMaxTile);
    part.row = arena.take<T>(2 * slabs[0].piece * p.taps());
    // Operands before they are split.
    part.block = arena.take<T>(
        Product::kSplits ? larger(2 * kOutputBlock * tile, Product::kDepthStep * group_columns)
                         : 0);
    part.zeros = arena.take<Pixel>(slabs[0].channels);
    part.sink = arena.take<T>(slabs[0].channels);
    part.plan = arena.take<Plan<T>>(1);
    return part;
  }

  // Such that the threads end the weight gradient at about the same time. Each part reads grad_out,
  // which takes about half as long as the products of one tap.
  int64_t choose_taps(int64_t taps, int threads) const {
    int64_t best = taps, least = -1;
    for (int64_t size = taps; size > 0; --size) {
      const int64_t rounds = ceil_div(slabs.count * ceil_div(taps, size), threads);
      const int64_t cost = rounds * (2 * columns_in_group(slabs[0], size) + slabs[0].piece);
      if (least < 0 || cost < least) {
        least = cost;
        best = size;
      }
    }
    return best;
  }

  // Columns of one group in a slab, padded.
  static int64_t columns_in_group(const Slab& slab, int64_t taps) {
    return round_up(slab.piece * taps, Product::kColumnStep);
  }
  // Where the matrices of a slab's i-th group begin. All but a group's last slab are equally wide.
  int64_t weight_at(int64_t slab, int64_t i) const {
    return (slab * slabs[0].groups + i) * Product::kTerms * padded_outputs * group_columns;
  }
  int64_t grad_weight_at(int64_t slab_part, int64_t i) const {
    return (slab_part * slabs[0].groups + i) * group_outputs * part_columns;
  }
  bool shares_deformable_groups(const Problem& p) const {
    for (int64_t s = 0; s + 1 < slabs.count; ++s) {
      if (deformable_range(p, slabs[s]).last == deformable_range(p, slabs[s + 1]).first)
        return true;
    }
    return false;
  }
  int64_t partial_rows(const Problem& p) const {
    return (slabs.count + p.deformable_groups - 1) * p.taps() * 3;
  }
  // The partial sums of slab s for deformable group d: walking through the channels, one of s and
  // d grows at each step, so s + d tells the pairs apart.
  T* partial(const Problem& p, int64_t image, int64_t slab, int64_t deformable_group, int64_t tap,
             int64_t which) const {
    const int64_t row = ((slab + deformable_group) * p.taps() + tap) * 3 + which;
    return partials + (image * partial_rows(p) + row) * band * tile;
  }

  int64_t grad_out_tile_size(const Problem& p) const {
    return Product::kTerms * p.out_channels * tile;
  }
  int64_t grad_pixel_tile_size(const Problem& p) const {
    return Product::kTerms * p.groups * padded_outputs * tile;
  }
  Element* grad_out_tile(const Problem& p, int64_t image, int64_t t) const {
    return grad_out + (image * band + t % band) * grad_out_tile_size(p);
  }
  Element* grad_pixel_tile(const Problem& p, int64_t image, int64_t t) const {
    return grad_pixel + (image * band + t % band) * grad_pixel_tile_size(p);
  }
  // One group's grad_out in a tile as a left operand: [m][pixel], and [pixel][m].
  typename Product::Left by_output(const Problem& p, int64_t image, int64_t t,
                                   int64_t group) const {
    return Product::left(grad_out_tile(p, image, t) + group * group_outputs * tile, tile,
                         p.out_channels * tile);
  }
  typename Product::Left by_pixel(const Problem& p, int64_t image, int64_t t, int64_t group) const {
    if constexpr (Product::kSplits) {
      return Product::left(grad_pixel_tile(p, image, t) + group * padded_outputs,
                           p.groups * padded_outputs, p.groups * padded_outputs * tile);
    } else {
      return {grad_out_tile(p, image, t) + group * group_outputs * tile, 1, tile};
    }
  }
};

// grad_out of `outputs` <= kOutputBlock outputs and one tile to [m][tile], zeros behind the last
// pixel.
template <typename T>
void order_grad_out(const Problem& p, const void* grad_out, int64_t image, int64_t output,
                    int64_t outputs, int64_t pixel, int64_t count, int64_t tile, T* target) {
  if (!p.channels_last) {
    for (int64_t m = 0; m < outputs; ++m) {
      T* row = target + m * tile;
      const int64_t index = (image * p.out_channels + output + m) * p.out_pixels() + pixel;
      const T* source = read_row(grad_out, p.dtype, index, count, row);
      if (source != row) __builtin_memcpy(row, source, count * sizeof(T));
    }
  } else {
    T converted[kMaxTile][kOutputBlock];
    const T* source[kMaxTile];
    for (int64_t t = 0; t < count; ++t) {
      const int64_t index = (image * p.out_pixels() + pixel + t) * p.out_channels + output;
      source[t] = read_row(grad_out, p.dtype, index, outputs, converted[t]);
    }
    transpose<16, 8>(count, outputs, [&](int64_t t) { return source[t]; }, target, tile);
  }
  for (int64_t m = 0; m < outputs && count < tile; ++m) {
    __builtin_memset(target + m * tile + count, 0, (tile - count) * sizeof(T));
  }
}

// Packs grad_out of one tile for both products. `block` is scratch memory.
template <typename Product, typename T>
void pack_grad_out(const Problem& p, const void* grad_out, const BackwardLayout<Product>& layout,
                   int64_t first_image, int64_t image, int64_t t, int64_t count, T* block,
                   Magnitude& largest) {
  const int64_t tile = layout.tile, pixel = t * tile;
  for (int64_t output = 0, outputs; output < p.out_channels; output += outputs) {
    auto* rows = layout.grad_out_tile(p, image, t) + output * tile;
    if constexpr (!Product::kSplits) {
      outputs = smaller(kOutputBlock, p.out_channels - output);
      order_grad_out(p, grad_out, first_image + image, output, outputs, pixel, count, tile, rows);
    } else {
      // Blocks do not cross the ends of groups.
      const int64_t group = output / p.group_outputs(), within = output % p.group_outputs();
      outputs = smaller(kOutputBlock, p.group_outputs() - within);
      order_grad_out(p, grad_out, first_image + image, output, outputs, pixel, count, tile, block);
      if (Product::kTerms > 1) largest.include(block, outputs * tile);
      constexpr int kLanes = kVectorLanes<T>;
      for (int64_t i = 0; i < outputs * tile; i += kLanes) {
        Product::template store_terms<kLanes>(rows + i, p.out_channels * tile,
                                              load<kLanes>(block + i));
      }
      if (!layout.columns_wanted) continue;
      static_assert(kOutputBlock == kLanes, "a row of the transposed block is one vector");
      T* const transposed = block + kOutputBlock * tile;
      if (outputs < kOutputBlock) {
        __builtin_memset(transposed, 0, tile * kOutputBlock * sizeof(T));
      }
      transpose<kOutputBlock, 16>(
          outputs, count, [&](int64_t m) { return block + m * tile; }, transposed, kOutputBlock);
      const int64_t stride = p.groups * layout.padded_outputs;
      auto* target = layout.grad_pixel_tile(p, image, t) + group * layout.padded_outputs + within;
      // Zeros up to the padded number of outputs.
      const bool pads = within + outputs == p.group_outputs() &&
                        round_up(p.group_outputs(), kOutputBlock) < layout.padded_outputs;
      for (int64_t i = 0; i < count; ++i) {
        Product::template store_terms<kLanes>(target, stride * tile,
                                              load<kLanes>(transposed + i * kOutputBlock));
        if (pads) {
          Product::template store_terms<kLanes>(target + kOutputBlock, stride * tile,
                                                Vector<T, kLanes>{});
        }
        target += stride;
      }
    }
  }
}

// Brings the weights of a slab's group and the outputs [output, output + outputs) into panels of
// columns (tap, channel), in each panel output by output. `row` holds one output's weights twice.
template <typename Product, typename T>
void order_backward_weights(const Problem& p, const void* weight, const Slab& slab, int64_t group,
                            int64_t output, int64_t outputs, int64_t all_outputs, T* row,
                            T* target) {
  const int64_t taps = p.taps(), piece = slab.piece;
  const int64_t columns = BackwardLayout<Product>::columns_in_group(slab, taps);
  if (columns > piece * taps) __builtin_memset(target, 0, all_outputs * columns * sizeof(T));
  for (int64_t m = 0; m < outputs; ++m) {
    const int64_t first =
        ((slab.group + group) * p.group_outputs() + output + m) * p.group_channels() + slab.first;
    const T* source = read_row(weight, p.dtype, first * taps, piece * taps, row);
    T* const ordered = row + piece * taps;
    transpose<16, 8>(piece, taps, [&](int64_t c) { return source + c * taps; }, ordered, piece);
    for (int64_t column = 0; column < piece * taps; column += Product::kPanel) {
      const int64_t width = smaller(Product::kPanel, columns - column);
      __builtin_memcpy(target + column * all_outputs + m * width, ordered + column,
                       smaller(width, piece * taps - column) * sizeof(T));
    }
  }
}

// Packs the weights of one group in a slab for the product with grad_out.
template <typename Product, typename T>
void pack_backward_weights(const Problem& p, const void* weight,
                           const BackwardLayout<Product>& layout, const Slab& slab, int64_t group,
                           T* row, T* block, typename Product::Element* packed,
                           Magnitude& largest) {
  if constexpr (!Product::kSplits) {
    order_backward_weights<Product>(p, weight, slab, group, 0, p.group_outputs(), p.group_outputs(),
                                    row, packed);
  } else {
    const int64_t columns = layout.columns_in_group(slab, p.taps());
    constexpr int64_t kRows = Product::kDepthStep;
    for (int64_t m = 0; m < p.group_outputs(); m += kRows) {
      const int64_t outputs = smaller(kRows, p.group_outputs() - m);
      order_backward_weights<Product>(p, weight, slab, group, m, outputs, kRows, row, block);
      for (int64_t column = 0; column < columns; column += Product::kPanel) {
        const int64_t width = smaller(Product::kPanel, columns - column);
        const T* const source = block + column * kRows;
        if (Product::kTerms > 1) largest.include(source, outputs * width);
        Product::pack(outputs, width, source, width,
                      packed + Product::kTerms * (column * layout.padded_outputs + m * width));
      }
    }
  }
}

// Sums the four D_ab of one pixel over the vectors of a run: in registers while all vectors are
// equally long, else each vector by itself.
template <typename Shape, typename T>
struct Dots;
template <int kLanes, int kPieces, bool kGathers, typename T>
struct Dots<RunShape<kLanes, kPieces, kGathers>, T> {
  Vector<T, kLanes> d00 = {}, d01 = {}, d10 = {}, d11 = {};

  template <typename V>
  DCN_INLINE_MEMBER void add(Lanes<kLanes>, V v00, V v01, V v10, V v11, T*) {
    d00 += v00;
    d01 += v01;
    d10 += v10;
    d11 += v11;
  }
  template <int kTail, typename V>
  DCN_INLINE_MEMBER void add(Lanes<kTail>, V v00, V v01, V v10, V v11, T* sums) {
    add_lane_sums<kTail, T>(v00, v01, v10, v11, sums);
  }
  DCN_INLINE_MEMBER void finish(T* sums) { add_lane_sums<kLanes, T>(d00, d01, d10, d11, sums); }
};

// For a run of channels of one tap: adds the four D_ab of each pixel to sums[t][4] and the gradient
// of x to grad_image.
template <bool kCoordinates, bool kX, typename Shape, typename T, typename Pixel>
__attribute__((noinline)) void scatter_run(Shape shape, const Plan<T>& plan, int64_t pixels,
                                           const Image<const Pixel>& image,
                                           const Image<T>& grad_image, const Run& run,
                                           const T* grad_columns, int64_t column_stride,
                                           T (*sums)[4]) {
  const int64_t count = Shape::kGathers ? run.repeats * run.count : run.count;
  const int64_t repeats = Shape::kGathers ? 1 : run.repeats, column_step = run.column_step;
  [[maybe_unused]] GatheredRow<T, Shape::kGathers ? 1 : 0> gathered;
  const Image<const Pixel> channels{image.data + run.channel, image.height, image.width,
                                    image.stride, image.outside};
  const Image<T> grad_channels{grad_image.data + run.channel, image.height, image.width,
                               image.stride, grad_image.outside};
  const T* row = grad_columns + run.column;
  for (int64_t t = 0; t < pixels; ++t) {
    Corners<const Pixel> from = find_corners(channels, plan.corner[t], plan.inside[t]);
    Corners<T> to = find_corners(grad_channels, plan.corner[t], plan.inside[t]);
    const T w00 = plan.w00[t], w01 = plan.w01[t], w10 = plan.w10[t], w11 = plan.w11[t];
    const T* source = row;
    if constexpr (Shape::kGathers) {
      gather_columns(run, row, gathered.data);
      source = gathered.data;
    }
    Dots<Shape, T> dots;
    for (int64_t i = 0; i < repeats; ++i) {
      shape.for_vectors(count, [&](auto lanes, int64_t c) {
        constexpr int kLanes = decltype(lanes)::value;
        const auto g = load<kLanes>(source + c);
        if constexpr (kCoordinates) {
          dots.add(lanes, g * load_value<kLanes>(from.p00 + c),
                   g * load_value<kLanes>(from.p01 + c), g * load_value<kLanes>(from.p10 + c),
                   g * load_value<kLanes>(from.p11 + c), sums[t]);
        }
        if constexpr (kX) {
          store<kLanes>(to.p00 + c, load<kLanes>(to.p00 + c) + w00 * g);
          store<kLanes>(to.p01 + c, load<kLanes>(to.p01 + c) + w01 * g);
          store<kLanes>(to.p10 + c, load<kLanes>(to.p10 + c) + w10 * g);
          store<kLanes>(to.p11 + c, load<kLanes>(to.p11 + c) + w11 * g);
        }
      });
      from = from.moved_by(count);
      to = to.moved_by(count);
      source += column_step;
    }
    if constexpr (kCoordinates) dots.finish(sums[t]);
    row += column_stride;
  }
}

template <bool kCoordinates, bool kX, typename T, typename Pixel>
void scatter_columns(const Plan<T>& plan, int64_t pixels, const Image<const Pixel>& image,
                     const Image<T>& grad_image, const Runs& runs, const T* grad_columns,
                     int64_t column_stride, T (*sums)[4]) {
  if (kCoordinates) __builtin_memset(sums, 0, pixels * sizeof(sums[0]));
  for (int64_t i = 0; i < runs.count; ++i) {
    with_run_shape<kVectorLanes<T>>(runs.run[i], [&](auto shape) {
      scatter_run<kCoordinates, kX>(shape, plan, pixels, image, grad_image, runs.run[i],
                                    grad_columns, column_stride, sums);
    });
  }
}

// The gradients of one tap's offset and mask in one tile.
template <typename T>
struct CoordinateGradients {
  T y[kMaxTile], x[kMaxTile], mask[kMaxTile];

  // From the D_ab, see sampling.h.
  CoordinateGradients(const Plan<T>& plan, int64_t count, const T (*sums)[4]) {
    T d[4][kMaxTile];
    transpose<16, 4>(count, 4, [&](int64_t t) { return sums[t]; }, d[0], kMaxTile);
    for (int64_t t = 0; t < count; ++t) {
      // What samples nothing has gradient 0 even if the column's gradient is NaN: 0 * NaN is not.
      const bool samples = plan.inside[t] != 0;
      const T d00 = samples ? d[0][t] : T(0), d01 = samples ? d[1][t] : T(0);
      const T d10 = samples ? d[2][t] : T(0), d11 = samples ? d[3][t] : T(0);
      const T ly = plan.ly[t], lx = plan.lx[t];
      const CornerWeights<T> w = corner_weights(ly, lx);
      y[t] = plan.mask[t] * y_gradient(lx, d00, d01, d10, d11);
      x[t] = plan.mask[t] * x_gradient(ly, d00, d01, d10, d11);
      mask[t] = w.w00 * d00 + w.w01 * d01 + w.w10 * d10 + w.w11 * d11;
    }
  }
};

// Brings a row of one tap's gradients into its place in memory, of y (which = 0), x (1) or mask
// (2).
template <typename T>
void write_coordinate_gradient(const Problem& p, const BackwardTensors& tensors, int64_t n,
                               int64_t d, int64_t tap, int64_t which, int64_t pixel, int64_t count,
                               const T* row) {
  void* const target = which < 2 ? tensors.grad_offset : tensors.grad_mask;
  if (target == nullptr) return;
  const int64_t plane = (n * p.deformable_groups + d) * p.taps() + tap;
  write_row(row, count, target, p.offset_dtype,
            (which < 2 ? 2 * plane + which : plane) * p.out_pixels() + pixel);
}

// The gradients that pass through one tile of one slab.
template <typename Product>
void backward_tile(const Problem& p, const BackwardTensors& tensors,
                   const BackwardLayout<Product>& layout,
                   const typename BackwardLayout<Product>::ThreadPart& own, int64_t image,
                   int64_t s, int64_t t, const Tile<typename Product::Value>& tile) {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  const Slab slab = layout.slabs[s];
  const ColumnLayout columns{slab.piece, layout.columns_in_group(slab, p.taps())};
  const int64_t stride = layout.column_stride;
  __builtin_memset(own.grad_columns, 0, tile.count * stride * sizeof(T));
  for (int64_t g = 0; g < slab.groups; ++g) {
    Product::multiply(tile.count, columns.group_stride, p.group_outputs(),
                      layout.by_pixel(p, image, t, slab.group + g),
                      layout.weight + layout.weight_at(s, g), layout.padded_outputs, 0,
                      own.grad_columns + g * columns.group_stride, stride);
  }
  const int64_t at = image * p.channels * p.in_pixels();
  T sums[kMaxTile][4];
  const GroupRange range = deformable_range(p, slab);
  for (int64_t d = range.first; d <= range.last; ++d) {
    const Image<const Pixel> x =
        part_image<const Pixel>(p, layout.parts, layout.x + at, slab, d, own.zeros);
    const Image<T> grad_x = part_image(
        p, layout.parts, layout.x_wanted ? layout.grad_x + at : own.sink, slab, d, own.sink);
    for (int64_t tap = 0; tap < p.taps(); ++tap) {
      make_plan(p, tensors.offset, tensors.mask, tile, d, tap, x, *own.plan);
      const Runs runs = find_runs(p, slab, columns, d, tap);
      const auto scatter = layout.coordinates_wanted
                               ? (layout.x_wanted ? scatter_columns<true, true, T, Pixel>
                                                  : scatter_columns<true, false, T, Pixel>)
                               : scatter_columns<false, true, T, Pixel>;
      scatter(*own.plan, tile.count, x, grad_x, runs, own.grad_columns, stride, sums);
      if (layout.coordinates_wanted) {
        const CoordinateGradients<T> gradients(*own.plan, tile.count, sums);
        const T* const rows[3] = {gradients.y, gradients.x, gradients.mask};
        for (int64_t i = 0; i < 3; ++i) {
          if (layout.sums_partials) {
            T* const target =
                layout.partial(p, image, s, d, tap, i) + t % layout.band * layout.tile;
            __builtin_memcpy(target, rows[i], tile.count * sizeof(T));
          } else {
            write_coordinate_gradient(p, tensors, tile.image, d, tap, i, tile.pixel, tile.count,
                                      rows[i]);
          }
        }
      }
    }
  }
}

// Sums the partial coordinate gradients of one deformable group and tap over its slabs, in order.
template <typename Product>
void sum_partials(const Problem& p, const BackwardTensors& tensors,
                  const BackwardLayout<Product>& layout, int64_t image, int64_t n, int64_t d,
                  int64_t tap, int64_t pixel, int64_t count) {
  using T = typename Product::Value;
  for (int64_t which = 0; which < 3; ++which) {
    T* sum = nullptr;
    for (int64_t s = 0; s < layout.slabs.count; ++s) {
      const GroupRange range = deformable_range(p, layout.slabs[s]);
      if (d < range.first || d > range.last) continue;
      T* part = layout.partial(p, image, s, d, tap, which);
      if (sum == nullptr) {
        sum = part;
      } else {
        for (int64_t t = 0; t < count; ++t) sum[t] += part[t];
      }
    }
    write_coordinate_gradient(p, tensors, n, d, tap, which, pixel, count, sum);
  }
}

// Adds one tile's part of the weight gradient of a slab's taps [first, first + count).
template <typename Product>
void weight_gradient_tile(const Problem& p, const BackwardTensors& tensors,
                          const BackwardLayout<Product>& layout,
                          const typename BackwardLayout<Product>::ThreadPart& own, int64_t image,
                          int64_t s, int64_t t, int64_t first, int64_t count,
                          typename Product::Value* grad_weight,
                          const Tile<typename Product::Value>& tile) {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  const Slab slab = layout.slabs[s];
  const ColumnLayout columns{slab.piece, layout.columns_in_group(slab, count)};
  const Pixel* const copy = layout.x + image * p.channels * p.in_pixels();
  const Columns<VectorProduct<T>> target{own.columns, layout.column_stride, 0};
  const GroupRange range = deformable_range(p, slab);
  for (int64_t d = range.first; d <= range.last; ++d) {
    const Image<const Pixel> x = part_image<const Pixel>(p, layout.parts, copy, slab, d, own.zeros);
    for (int64_t tap = 0; tap < count; ++tap) {
      make_plan(p, tensors.offset, tensors.mask, tile, d, first + tap, x, *own.plan);
      sample_columns(*own.plan, tile.count, x, find_runs(p, slab, columns, d, tap), target);
    }
  }
  for (int64_t g = 0; g < slab.groups; ++g) {
    const auto grad_out = layout.by_output(p, image, t, slab.group + g);
    const T* const right = own.columns + g * columns.group_stride;
    T* const sum = grad_weight + layout.grad_weight_at(0, g);
    if constexpr (!Product::kSplits) {
      multiply(p.group_outputs(), columns.group_stride, tile.count, grad_out, right,
               layout.column_stride, sum, columns.group_stride);
    } else {
      const int64_t depth = round_up(tile.count, Product::kDepthStep);
      for (int64_t column = 0; column < columns.group_stride; column += Product::kPanel) {
        Product::pack(tile.count, smaller(Product::kPanel, columns.group_stride - column),
                      right + column, layout.column_stride,
                      own.packed + Product::kTerms * column * depth);
      }
      Product::multiply(p.group_outputs(), columns.group_stride, tile.count, grad_out, own.packed,
                        depth, 0, sum, columns.group_stride);
    }
  }
}

// Brings the weight gradient of one output into its place in memory, through `row`.
template <typename Product, typename T>
void unpack_weight_gradient(const Problem& p, const BackwardTensors& tensors,
                            const BackwardLayout<Product>& layout, int64_t output, T* row) {
  const int64_t taps = p.taps(), group = output / p.group_outputs();
  const int64_t m = output % p.group_outputs();
  for (int64_t s = 0; s < layout.slabs.count; ++s) {
    const Slab slab = layout.slabs[s];
    if (group < slab.group || group >= slab.group + slab.groups) continue;
    for (int64_t part = 0; part < layout.tap_parts; ++part) {
      const int64_t first = part * layout.taps_in_part;
      const int64_t count = smaller(layout.taps_in_part, taps - first);
      const T* source = layout.grad_weight +
                        layout.grad_weight_at(s * layout.tap_parts + part, group - slab.group) +
                        m * layout.columns_in_group(slab, count);
      transpose<8, 16>(
          count, slab.piece, [&](int64_t tap) { return source + tap * slab.piece; }, row + first,
          taps);
    }
    write_row(row, slab.piece * taps, tensors.grad_weight, p.dtype,
              (output * p.group_channels() + slab.first) * taps);
  }
}

template <typename Product>
int64_t backward_bytes(const Problem& p, const BackwardTensors& wanted, int threads) {
  const BackwardLayout<Product> layout(p, wanted, nullptr, threads);
  return layout.shared_bytes + threads * layout.thread_bytes +
         p.out_channels * static_cast<int64_t>(sizeof(double));
}

template <typename T, typename Element>
T sum_row(const Element* row, int64_t count) {
  constexpr int kLanes = kVectorLanes<T>;
  Vector<T, kLanes> sums = {};
  T sum = 0;
  for_lanes<kLanes>(count, [&](auto lanes, int64_t i) {
    constexpr int kTail = decltype(lanes)::value;
    const auto values = load_value<kTail>(row + i);
    if constexpr (kTail == kLanes) {
      sums += values;
    } else {
      for (int j = 0; j < kTail; ++j) sum += values[j];
    }
  });
  for (int j = 0; j < kLanes; ++j) sum += sums[j];
  return sum;
}

// Returns false, the results being wrong, where the products are not accurate.
template <typename Product>
bool backward(const Problem& p, const BackwardTensors& tensors, void* workspace, int threads) {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  const BackwardLayout<Product> layout(p, tensors, workspace, threads);
  const int64_t slabs = layout.slabs.count, taps = p.taps(), tiles = layout.tiles;
  const bool needs_x = layout.columns_wanted || layout.weight_wanted;
  double* const bias_sums = reinterpret_cast<double*>(
      static_cast<char*>(workspace) + layout.shared_bytes + threads * layout.thread_bytes);
  const auto pixels_in_tile = [&](int64_t t) {
    return smaller(layout.tile, p.out_pixels() - t * layout.tile);
  };
  Magnitude largest_x, largest_mask, largest_weight, largest_grad_out;
  run_team(threads, [&](Team& team) {
    Arena arena(static_cast<char*>(workspace) + layout.shared_bytes +
                team.thread() * layout.thread_bytes);
    const auto own = layout.thread_part(p, arena);
    [[maybe_unused]] const typename Product::Scope scope;
    own.plan->largest_mask = 0;
    __builtin_memset(own.zeros, 0, layout.slabs[0].channels * sizeof(Pixel));
    __builtin_memset(own.sink, 0, layout.slabs[0].channels * sizeof(T));
    if (layout.weight_wanted) {
      __builtin_memset(own.columns, 0, layout.tile * layout.column_stride * sizeof(T));
    }
    Tile<T> tile{0, 0, 0, own.origins, own.origins + kMaxTile};
    if (layout.columns_wanted) {
      team.for_each(slabs, [&](int64_t s) {
        const Slab slab = layout.slabs[s];
        for (int64_t g = 0; g < slab.groups; ++g) {
          pack_backward_weights(p, tensors.weight, layout, slab, g, own.row, own.block,
                                layout.weight + layout.weight_at(s, g), largest_weight);
        }
      });
    }
    if (layout.bias_wanted) {
      team.for_each(p.out_channels, [&](int64_t m) { bias_sums[m] = 0; });
    }
    if (layout.weight_wanted) {
      const int64_t size = layout.grad_weight_at(1, 0);
      team.for_each(slabs * layout.tap_parts, [&](int64_t task) {
        __builtin_memset(layout.grad_weight + task * size, 0, size * sizeof(T));
      });
    }
    for (int64_t first_image = 0; first_image < p.batch; first_image += layout.images) {
      const int64_t images = smaller(layout.images, p.batch - first_image);
      if (needs_x) {
        copy_to_parts(p, tensors.x, layout.parts, first_image, images, team, layout.x,
                      [&](const Pixel* values, int64_t count) {
                        if constexpr (Product::kTerms > 1) largest_x.include(values, count);
                      });
      }
      if (layout.x_wanted) {
        team.for_each(images * layout.parts.count, [&](int64_t task) {
          const Parts::Range part = layout.parts[task % layout.parts.count];
          const int64_t first = task / layout.parts.count * p.channels + part.first;
          __builtin_memset(layout.grad_x + first * p.in_pixels(), 0,
                           part.count * p.in_pixels() * sizeof(T));
        });
      }
      for (int64_t first_tile = 0; first_tile < tiles; first_tile += layout.band) {
        const int64_t band = smaller(layout.band, tiles - first_tile);
        const auto for_tile = [&](int64_t image, int64_t t) {
          set_tile(p, first_image + image, t * layout.tile, pixels_in_tile(t), tile);
        };
        team.for_each(images * band, [&](int64_t task) {
          const int64_t t = first_tile + task % band;
          pack_grad_out(p, tensors.grad_out, layout, first_image, task / band, t, pixels_in_tile(t),
                        own.block, largest_grad_out);
        });
        if (layout.columns_wanted) {
          team.for_each(images * slabs, [&](int64_t task) {
            const int64_t image = task / slabs, s = task % slabs;
            for (int64_t t = first_tile; t < first_tile + band; ++t) {
              for_tile(image, t);
              backward_tile(p, tensors, layout, own, image, s, t, tile);
            }
          });
        }
        if (layout.sums_partials) {
          const int64_t pixel = first_tile * layout.tile;
          const int64_t count = smaller(band * layout.tile, p.out_pixels() - pixel);
          team.for_each(images * p.deformable_groups * taps, [&](int64_t task) {
            const int64_t image = task / (p.deformable_groups * taps);
            sum_partials(p, tensors, layout, image, first_image + image,
                         task / taps % p.deformable_groups, task % taps, pixel, count);
          });
        }
        if (layout.weight_wanted) {
          team.for_each(slabs * layout.tap_parts, [&](int64_t task) {
            const int64_t s = task / layout.tap_parts;
            const int64_t first = task % layout.tap_parts * layout.taps_in_part;
            T* grad_weight = layout.grad_weight + layout.grad_weight_at(task, 0);
            for (int64_t i = 0; i < images * band; ++i) {
              const int64_t image = i / band, t = first_tile + i % band;
              for_tile(image, t);
              weight_gradient_tile(p, tensors, layout, own, image, s, t, first,
                                   smaller(layout.taps_in_part, taps - first), grad_weight, tile);
            }
          });
        }
        if (layout.bias_wanted) {
          team.for_each(p.out_channels, [&](int64_t m) {
            for (int64_t i = 0; i < images * band; ++i) {
              const auto* row =
                  layout.grad_out_tile(p, i / band, first_tile + i % band) + m * layout.tile;
              for (int term = 0; term < Product::kTerms; ++term) {
                bias_sums[m] += static_cast<double>(sum_row<T>(row, layout.tile));
                row += p.out_channels * layout.tile;
              }
            }
          });
        }
      }
      if (layout.x_wanted) {
        for_each_part(p, layout.parts, images, team,
                      [&](int64_t image, Parts::Range part, int64_t pixel, int64_t pixels) {
                        const T* source = layout.grad_x +
                                          (image * p.channels + part.first) * p.in_pixels() +
                                          pixel * part.count;
                        from_channels_last(source, part.count, part.count, pixels, p.channels_last,
                                           first_image + image, part.first, p.channels, pixel,
                                           p.in_pixels(), tensors.grad_x, p.dtype);
                      });
      }
    }
    if (layout.weight_wanted) {
      team.for_each(p.out_channels,
                    [&](int64_t m) { unpack_weight_gradient(p, tensors, layout, m, own.row); });
    }
    if (layout.bias_wanted) {
      team.for_each(p.out_channels,
                    [&](int64_t m) { write_row(bias_sums + m, 1, tensors.grad_bias, p.dtype, m); });
    }
    largest_mask.include_bits(own.plan->largest_mask);
  });
  return Product::kTerms == 1 || (largest_grad_out.splits_with(largest_weight) &&
                                  largest_grad_out.splits_with(largest_x.times(largest_mask)));
}

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

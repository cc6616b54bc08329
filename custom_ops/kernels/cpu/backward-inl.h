// The backward pass.
//
// Channels are cut into slabs. Two products, each as large as the forward one:
//   gradient of the columns   grad_columns[t][k] = sum over m of grad_out[m][t] * weight[m][k]
//   gradient of the weight    grad_weight[m][k]  = sum over n, t of grad_out[m][t] * columns[t][k]
// One task owns a slab of one image, or a slab and some taps of the weight gradient, and walks the
// pixels in order: nothing is written by two tasks, every sum has a fixed order, and results do
// not depend on the number of threads.
#pragma once

#include "pass-inl.h"

namespace dcn::cpu::DCN_ISA {

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

// Whether some deformable group's channels are in several slabs: then each of them gives a part of
// the gradients of its coordinates.
inline bool shares_deformable_groups(const Problem& p, const Slabs& slabs) {
  for (int64_t s = 0; s + 1 < slabs.count; ++s) {
    if (deformable_range(p, slabs[s]).last == deformable_range(p, slabs[s + 1]).first) return true;
  }
  return false;
}
// Rows of pixels of these parts, and the one of a slab and deformable group: walking through the
// channels, one of the two grows at each step, so their sum tells the pairs apart. `which` is that
// of a Coordinate.
inline int64_t partial_rows(const Problem& p, const Slabs& slabs) {
  return (slabs.count + p.deformable_groups - 1) * p.taps() * 3;
}
DCN_INLINE int64_t partial_row(const Problem& p, int64_t slab, int64_t deformable_group,
                               int64_t tap, int64_t which) {
  return ((slab + deformable_group) * p.taps() + tap) * 3 + which;
}

// How the work is cut, and the workspace.
template <typename Product>
struct BackwardBuffers {
  using T = typename Product::Value;
  using Pixel = typename Product::Pixel;
  using Element = typename Product::Element;

  static constexpr bool copies_x = true;

  const Problem& p;
  Slabs slabs;
  ChannelBlocks blocks;  // of x and its gradient
  bool columns_wanted, coordinates_wanted, weight_wanted;
  bool sums_partials;                     // some deformable group's channels are in several slabs
  int64_t images;                         // at a time
  int64_t tile;                           // output pixels in a tile
  int64_t tiles;                          // in an image
  int64_t band;                           // tiles of each image that are worked on at a time
  int64_t taps_per_chunk, tap_chunks;     // of the weight gradient
  int64_t group_outputs, padded_outputs;  // of a group
  int64_t group_columns, chunk_columns;   // of a group in a slab, padded, and with taps_per_chunk
  int64_t column_stride, shared_bytes, thread_bytes;
  Pixel* x;             // arranged in blocks
  T* grad_x;            // the same
  Element* grad_out;    // [image][tile of the band][term][m][pixel]
  Element* grad_pixel;  // [image][tile][term][pixel][padded m], where the product splits
  Element* weight;      // per group of each slab: packed [m][columns]
  T* grad_weight;       // per group, slab and chunk of taps: [m][columns]
  T* partials;          // [image][slab + deformable group][tap][y, x, mask][pixel of the band]
  double* grad_bias;

  BackwardBuffers(const Problem& p, const BackwardTensors& wanted, void* workspace, int threads)
      : p(p),
        slabs(p, backward_slab<Product>(p)),
        blocks(p, slabs, copies_x),
        group_outputs(p.group_outputs()) {
    coordinates_wanted = wanted.grad_offset != nullptr || wanted.grad_mask != nullptr;
    weight_wanted = wanted.grad_weight != nullptr;
    columns_wanted = wanted.grad_x != nullptr || coordinates_wanted;
    const Slab widest = slabs[0];
    taps_per_chunk = choose_taps(threads);
    tap_chunks = ceil_div(p.taps(), taps_per_chunk);
    group_columns = columns_in_group(widest, p.taps());
    chunk_columns = columns_in_group(widest, taps_per_chunk);
    column_stride = widest.groups * group_columns;
    const int64_t fitting = kTileBytes / (column_stride * static_cast<int64_t>(sizeof(T)));
    tile = smaller(kMaxTile, larger(1, fitting / Product::kRows) * Product::kRows);
    tiles = ceil_div(p.out_pixels(), tile);
    padded_outputs = round_up(group_outputs, Product::kDepthStep);
    sums_partials = coordinates_wanted && shares_deformable_groups(p, slabs);
    const int64_t grad_pixel_size = Product::kSplits && columns_wanted ? grad_pixel_tile_size() : 0;
    const int64_t partials_size = sums_partials ? partial_rows(p, slabs) * tile : 0;
    // The order of the weight gradient's sums depends on both, so they do not on the threads.
    const int64_t tile_bytes =
        (grad_out_tile_size() + grad_pixel_size) * sizeof(Element) + partials_size * sizeof(T);
    images = images_at_a_time(p, larger(blocks.image_size() * (sizeof(Pixel) + sizeof(T)),
                                        kCopyBytes / kBandBytes * tile_bytes));
    const int64_t partial_bytes = larger(1, partials_size * sizeof(T));
    band = larger(1, smaller(smaller(tiles, kBandBytes / (images * tile_bytes)),
                             kPartialBytes / (images * partial_bytes)));
    Arena arena(workspace);
    x = arena.take<Pixel>(columns_wanted || weight_wanted ? images * blocks.image_size() : 0);
    grad_x = arena.take<T>(wanted.grad_x ? images * blocks.image_size() : 0);
    grad_out = arena.take<Element>(images * band * grad_out_tile_size());
    grad_pixel = arena.take<Element>(images * band * grad_pixel_size);
    weight = arena.take<Element>(columns_wanted ? weight_at(slabs.count, 0) : 0);
    grad_weight = arena.take<T>(weight_wanted ? grad_weight_at(slabs.count * tap_chunks, 0) : 0);
    partials = arena.take<T>(images * band * partials_size);
    grad_bias = arena.take<double>(wanted.grad_bias ? p.out_channels : 0);
    shared_bytes = arena.used();
    thread_bytes = thread_buffers(nullptr).bytes;
  }

  struct ThreadBuffers {
    T *columns, *grad_columns, *origins, *row, *block;
    Element* packed;
    Pixel* zeros;
    T* sink;
    SamplingPlan<T>* plan;
    int64_t bytes;
  };
  ThreadBuffers thread_buffers(void* memory) const {
    Arena arena(memory);
    ThreadBuffers own;
    own.columns = arena.take<T>(weight_wanted ? tile * column_stride : 0);
    own.grad_columns = arena.take<T>(columns_wanted ? tile * column_stride : 0);
    own.packed = arena.take<Element>(
        Product::kSplits && weight_wanted ? Product::kTerms * tile * chunk_columns : 0);
    own.origins = arena.take<T>(2 * kMaxTile);
    own.row = arena.take<T>(2 * slabs[0].channels_per_group * p.taps());
    // Operands before they are split.
    own.block = arena.take<T>(
        Product::kSplits ? larger(2 * kOutputBlock * tile, Product::kDepthStep * group_columns)
                         : 0);
    own.zeros = arena.take<Pixel>(slabs[0].channels);
    own.sink = arena.take<T>(slabs[0].channels);
    own.plan = arena.take<SamplingPlan<T>>(1);
    own.bytes = arena.used();
    return own;
  }

  // Such that the threads end the weight gradient at about the same time. Each chunk reads
  // grad_out, which takes about half as long as the products of one tap.
  int64_t choose_taps(int threads) const {
    int64_t best = p.taps(), least = -1;
    for (int64_t size = p.taps(); size > 0; --size) {
      const int64_t rounds = ceil_div(slabs.count * ceil_div(p.taps(), size), threads);
      const int64_t cost =
          rounds * (2 * columns_in_group(slabs[0], size) + slabs[0].channels_per_group);
      if (least < 0 || cost < least) {
        least = cost;
        best = size;
      }
    }
    return best;
  }

  // Columns of one group in a slab, padded.
  static int64_t columns_in_group(const Slab& slab, int64_t taps) {
    return round_up(slab.channels_per_group * taps, Product::kColumnStep);
  }
  // Where the matrices of a slab's i-th group begin. All but a group's last slab are equally wide.
  int64_t weight_at(int64_t slab, int64_t i) const {
    return (slab * slabs[0].groups + i) * Product::kTerms * padded_outputs * group_columns;
  }
  int64_t grad_weight_at(int64_t slab_chunk, int64_t i) const {
    return (slab_chunk * slabs[0].groups + i) * group_outputs * chunk_columns;
  }
  T* partial(int64_t image, int64_t slab, int64_t deformable_group, int64_t tap,
             int64_t which) const {
    const int64_t row = partial_row(p, slab, deformable_group, tap, which);
    return partials + (image * partial_rows(p, slabs) + row) * band * tile;
  }

  int64_t grad_out_tile_size() const { return Product::kTerms * p.out_channels * tile; }
  int64_t grad_pixel_tile_size() const {
    return Product::kTerms * p.groups * padded_outputs * tile;
  }
  Element* grad_out_tile(int64_t image, int64_t t) const {
    return grad_out + (image * band + t % band) * grad_out_tile_size();
  }
  Element* grad_pixel_tile(int64_t image, int64_t t) const {
    return grad_pixel + (image * band + t % band) * grad_pixel_tile_size();
  }
  // One group's grad_out in a tile as a left operand: [m][pixel], and [pixel][m].
  typename Product::Left by_output(int64_t image, int64_t t, int64_t group) const {
    return Product::left(grad_out_tile(image, t) + group * group_outputs * tile, tile,
                         p.out_channels * tile);
  }
  typename Product::Left by_pixel(int64_t image, int64_t t, int64_t group) const {
    if constexpr (Product::kSplits) {
      return Product::left(grad_pixel_tile(image, t) + group * padded_outputs,
                           p.groups * padded_outputs, p.groups * padded_outputs * tile);
    } else {
      return {grad_out_tile(image, t) + group * group_outputs * tile, 1, tile};
    }
  }
};

// Sums the four D_ab of one pixel over the vectors of a run: in registers while all vectors are
// equally long, else each vector by itself.
template <typename Shape, typename T>
struct Dots;
template <int kLanes, int kPieces, bool kGathers, typename T>
struct Dots<RunShape<kLanes, kPieces, kGathers>, T> {
  Vector<T, kLanes> d00 = {}, d01 = {}, d10 = {}, d11 = {};

  template <typename V>
  DCN_INLINE_MEMBER void add(Constant<kLanes>, V v00, V v01, V v10, V v11, T*) {
    d00 += v00;
    d01 += v01;
    d10 += v10;
    d11 += v11;
  }
  template <int kTail, typename V>
  DCN_INLINE_MEMBER void add(Constant<kTail>, V v00, V v01, V v10, V v11, T* sums) {
    add_lane_sums<kTail, T>(v00, v01, v10, v11, sums);
  }
  DCN_INLINE_MEMBER void finish(T* sums) { add_lane_sums<kLanes, T>(d00, d01, d10, d11, sums); }
};

// What the gradient `g` of some channels of one sample adds to the D_ab and to the gradient of x,
// see sampling.h.
template <bool kCoordinates, bool kX, int kLanes, typename V, typename D, typename T,
          typename Pixel>
DCN_INLINE void scatter_vector(Constant<kLanes> lanes, V g, const Corners<const Pixel>& from,
                               const Corners<T>& to, const CornerWeights<T>& w, D& dots, T* sums) {
  if constexpr (kCoordinates) {
    dots.add(lanes, g * load_value<kLanes>(from.p00), g * load_value<kLanes>(from.p01),
             g * load_value<kLanes>(from.p10), g * load_value<kLanes>(from.p11), sums);
  }
  if constexpr (kX) {
    store<kLanes>(to.p00, load<kLanes>(to.p00) + w.w00 * g);
    store<kLanes>(to.p01, load<kLanes>(to.p01) + w.w01 * g);
    store<kLanes>(to.p10, load<kLanes>(to.p10) + w.w10 * g);
    store<kLanes>(to.p11, load<kLanes>(to.p11) + w.w11 * g);
  }
}

// For a run of channels of one tap: adds the four D_ab of each pixel to sums[t][4] and the gradient
// of x to grad_image.
template <bool kCoordinates, bool kX, typename Shape, typename T, typename Pixel>
__attribute__((noinline)) void scatter_run(Shape shape, const SamplingPlan<T>& plan, int64_t pixels,
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
    Corners<const Pixel> from = find_corners(channels, plan, t);
    Corners<T> to = find_corners(grad_channels, plan, t);
    const CornerWeights<T> weights{plan.w00[t], plan.w01[t], plan.w10[t], plan.w11[t]};
    const T* source = row;
    if constexpr (Shape::kGathers) {
      gather_columns(run, row, gathered.data);
      source = gathered.data;
    }
    Dots<Shape, T> dots;
    for (int64_t i = 0; i < repeats; ++i) {
      shape.for_vectors(count, [&](auto lanes, int64_t c) {
        constexpr int kLanes = decltype(lanes)::value;
        scatter_vector<kCoordinates, kX>(lanes, load<kLanes>(source + c), from.moved_by(c),
                                         to.moved_by(c), weights, dots, sums[t]);
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
void scatter_columns(const SamplingPlan<T>& plan, int64_t pixels, const Image<const Pixel>& image,
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
  CoordinateGradients(const SamplingPlan<T>& plan, int64_t count, const T (*sums)[4]) {
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

// What backward passes share, whatever their buffers are.
template <typename Product, typename Buffers>
struct BackwardPhases : Pass<Product, BackwardTensors, Buffers> {
  using Base = Pass<Product, BackwardTensors, Buffers>;
  using Base::Base, Base::p, Base::tensors, Base::buffers, Base::team, Base::own;
  using Base::tile, Base::first_image, Base::images;
  using typename Base::T;

  void clear_grad_x() {
    const int64_t blocks = buffers.blocks.count;
    team.for_each(images * blocks, [&](int64_t task) {
      Region r = buffers.blocks[task % blocks];
      r.image = task / blocks;
      __builtin_memset(buffers.grad_x + buffers.blocks.at(r), 0, r.channels * r.pixels * sizeof(T));
    });
  }

  // What is behind the last plane of packed offsets and masks has no gradient.
  void clear_padding() {
    const int64_t used = 3 * mask_planes(p), padding = p.packed_planes - used;
    if (tensors.grad_offset == nullptr || padding <= 0) return;
    team.for_each(p.batch * p.out_height, [&](int64_t row) {
      for (int64_t pixel = row * p.out_width; pixel < (row + 1) * p.out_width; ++pixel) {
        const int64_t index = pixel * p.packed_planes + used;
        __builtin_memset(element(tensors.grad_offset, p.offset_dtype, index), 0,
                         padding * element_size(p.offset_dtype));
      }
    });
  }

  // The coordinate gradients of one deformable group and tap over its slabs, in order, of the
  // pixels [pixel, pixel + count).
  void sum_partials(int64_t pixel, int64_t count) {
    const int64_t taps = p.taps();
    team.for_each(images * p.deformable_groups * taps, [&](int64_t task) {
      const int64_t image = task / (p.deformable_groups * taps);
      const int64_t d = task / taps % p.deformable_groups, tap = task % taps;
      for (int64_t which = 0; which < 3; ++which) {
        T* sum = nullptr;
        for (int64_t s = 0; s < buffers.slabs.count; ++s) {
          const GroupRange range = deformable_range(p, buffers.slabs[s]);
          if (d < range.first || d > range.last) continue;
          T* const part = buffers.partial(image, s, d, tap, which);
          if (sum == nullptr) {
            sum = part;
          } else {
            for (int64_t t = 0; t < count; ++t) sum[t] += part[t];
          }
        }
        write_coordinate_gradient({first_image + image, d, tap, which}, pixel, count, sum);
      }
    });
  }

  void write_grad_x() {
    this->for_blocks([&](Region r) {
      const T* const source = buffers.grad_x + buffers.blocks.at(r);
      r.image += first_image;
      from_channels_last(source, r.channels, r, like_x(p, tensors.grad_x));
    });
  }

  void write_bias_gradient() {
    team.for_each(p.out_channels, [&](int64_t m) {
      write_row(buffers.grad_bias + m, 1, tensors.grad_bias, p.dtype, m);
    });
  }

 protected:
  Image<T> grad_x_image(const Slab& slab, int64_t deformable_group) const {
    T* const copy = tensors.grad_x
                        ? buffers.grad_x + (tile.image - first_image) * buffers.blocks.image_size()
                        : own.sink;
    return block_image(p, buffers.blocks, copy, slab, deformable_group, own.sink);
  }

  // What the D_ab of a slab's channels give for one deformable group and tap in the tile: to the
  // tensors or, from `at` on, to a row of partial sums.
  void put_coordinate_gradients(const SamplingPlan<T>& plan, int64_t s, int64_t deformable_group,
                                int64_t tap, const T (*sums)[4], int64_t at) const {
    const CoordinateGradients<T> gradients(plan, tile.count, sums);
    const T* const rows[3] = {gradients.y, gradients.x, gradients.mask};
    for (int64_t which = 0; which < 3; ++which) {
      if (buffers.sums_partials) {
        T* const target =
            buffers.partial(tile.image - first_image, s, deformable_group, tap, which) + at;
        __builtin_memcpy(target, rows[which], tile.count * sizeof(T));
      } else {
        write_coordinate_gradient({tile.image, deformable_group, tap, which}, tile.pixel,
                                  tile.count, rows[which]);
      }
    }
  }

  // Gradients of y (which = 0), x (1) or mask (2).
  struct Coordinate {
    int64_t image, deformable_group, tap, which;
  };
  void write_coordinate_gradient(const Coordinate& c, int64_t pixel, int64_t count,
                                 const T* row) const {
    const Planes<void> target = c.which < 2 ? like_offset(p, tensors.grad_offset)
                                            : like_mask(p, tensors.grad_offset, tensors.grad_mask);
    if (target.data == nullptr) return;
    const int64_t plane = target.plane(p, c.deformable_group, c.tap, c.which % 2);
    target.write(p, row, count, target.index(p, c.image, plane, pixel));
  }
};

template <typename Product>
struct BackwardPass : BackwardPhases<Product, BackwardBuffers<Product>> {
  using Base = BackwardPhases<Product, BackwardBuffers<Product>>;
  using Base::Base, Base::p, Base::tensors, Base::buffers, Base::largest, Base::team, Base::own;
  using Base::tile, Base::first_image, Base::images;
  using typename Base::Element, typename Base::Pixel, typename Base::T;

  int64_t first_tile = 0, band = 0;  // of the images, that are worked on

  void run() {
    if (buffers.columns_wanted) pack_weights();
    clear_sums();
    this->clear_padding();
    this->for_images([&] {
      if (buffers.columns_wanted || buffers.weight_wanted) this->copy_x();
      if (tensors.grad_x) this->clear_grad_x();
      for (first_tile = 0; first_tile < buffers.tiles; first_tile += buffers.band) {
        band = smaller(buffers.band, buffers.tiles - first_tile);
        pack_grad_out();
        if (buffers.columns_wanted) backpropagate_columns();
        if (buffers.sums_partials) sum_partials_of_band();
        if (buffers.weight_wanted) add_weight_gradient();
        if (tensors.grad_bias) add_bias_gradient();
      }
      if (tensors.grad_x) this->write_grad_x();
    });
    if (buffers.weight_wanted) write_weight_gradient();
    if (tensors.grad_bias) this->write_bias_gradient();
  }

  void pack_weights() {
    team.for_each(buffers.slabs.count, [&](int64_t s) {
      const Slab slab = buffers.slabs[s];
      for (int64_t g = 0; g < slab.groups; ++g) {
        pack_weights(slab, g, buffers.weight + buffers.weight_at(s, g));
      }
    });
  }

  void clear_sums() {
    __builtin_memset(own.sink, 0, buffers.slabs[0].channels * sizeof(T));
    if (tensors.grad_bias) {
      team.for_each(p.out_channels, [&](int64_t m) { buffers.grad_bias[m] = 0; });
    }
    if (buffers.weight_wanted) {
      __builtin_memset(own.columns, 0, buffers.tile * buffers.column_stride * sizeof(T));
      const int64_t size = buffers.grad_weight_at(1, 0);
      team.for_each(buffers.slabs.count * buffers.tap_chunks, [&](int64_t task) {
        __builtin_memset(buffers.grad_weight + task * size, 0, size * sizeof(T));
      });
    }
  }

  void pack_grad_out() {
    team.for_each(images * band,
                  [&](int64_t task) { pack_grad_out_tile(task / band, first_tile + task % band); });
  }

  // The gradient of the columns, and from it those of x, offset and mask.
  void backpropagate_columns() {
    const int64_t slabs = buffers.slabs.count;
    team.for_each(images * slabs, [&](int64_t task) {
      for (int64_t t = first_tile; t < first_tile + band; ++t) {
        enter_tile(task / slabs, t);
        multiply_weights(task % slabs);
        scatter(task % slabs);
      }
    });
  }

  void sum_partials_of_band() {
    const int64_t pixel = first_tile * buffers.tile;
    this->sum_partials(pixel, smaller(band * buffers.tile, p.out_pixels() - pixel));
  }

  void add_weight_gradient() {
    team.for_each(buffers.slabs.count * buffers.tap_chunks, [&](int64_t task) {
      const Slab slab = buffers.slabs[task / buffers.tap_chunks];
      const int64_t first = task % buffers.tap_chunks * buffers.taps_per_chunk;
      const int64_t count = smaller(buffers.taps_per_chunk, p.taps() - first);
      for (int64_t i = 0; i < images * band; ++i) {
        enter_tile(i / band, first_tile + i % band);
        multiply_columns(slab, first, count, buffers.grad_weight + buffers.grad_weight_at(task, 0));
      }
    });
  }

  void add_bias_gradient() {
    team.for_each(p.out_channels, [&](int64_t m) {
      for (int64_t i = 0; i < images * band; ++i) {
        const Element* row =
            buffers.grad_out_tile(i / band, first_tile + i % band) + m * buffers.tile;
        for (int term = 0; term < Product::kTerms; ++term) {
          buffers.grad_bias[m] += static_cast<double>(sum_row<T>(row, buffers.tile));
          row += p.out_channels * buffers.tile;
        }
      }
    });
  }

  void write_weight_gradient() {
    team.for_each(p.out_channels, [&](int64_t output) { write_weight_gradient(output); });
  }

 private:
  // Brings the weights of a slab's group and the outputs [output, output + outputs) into panels of
  // columns (tap, channel), in each panel `all_outputs` rows, output by output.
  void order_weights(const Slab& slab, int64_t group, int64_t output, int64_t outputs,
                     int64_t all_outputs, T* target) const {
    const int64_t taps = p.taps(), channels = slab.channels_per_group;
    const int64_t columns = buffers.columns_in_group(slab, taps);
    if (columns > channels * taps) {
      __builtin_memset(target, 0, all_outputs * columns * sizeof(T));
    }
    for (int64_t m = 0; m < outputs; ++m) {
      const int64_t first =
          ((slab.group + group) * p.group_outputs() + output + m) * p.group_channels() +
          slab.group_offset;
      const T* source = read_row(tensors.weight, p.dtype, first * taps, channels * taps, own.row);
      T* const ordered = own.row + channels * taps;
      transpose<16, 8>(
          channels, taps, [&](int64_t c) { return source + c * taps; }, ordered, channels);
      for (int64_t column = 0; column < channels * taps; column += Product::kPanel) {
        const int64_t width = smaller(Product::kPanel, columns - column);
        __builtin_memcpy(target + column * all_outputs + m * width, ordered + column,
                         smaller(width, channels * taps - column) * sizeof(T));
      }
    }
  }

  // The weights of one group in a slab, for the product with grad_out.
  void pack_weights(const Slab& slab, int64_t group, Element* packed) {
    if constexpr (!Product::kSplits) {
      order_weights(slab, group, 0, p.group_outputs(), p.group_outputs(), packed);
    } else {
      const int64_t columns = buffers.columns_in_group(slab, p.taps());
      constexpr int64_t kRows = Product::kDepthStep;
      for (int64_t m = 0; m < p.group_outputs(); m += kRows) {
        const int64_t outputs = smaller(kRows, p.group_outputs() - m);
        order_weights(slab, group, m, outputs, kRows, own.block);
        for (int64_t column = 0; column < columns; column += Product::kPanel) {
          const int64_t width = smaller(Product::kPanel, columns - column);
          const T* const source = own.block + column * kRows;
          if (Product::kTerms > 1) largest.weight.include(source, outputs * width);
          Product::pack(outputs, width, source, width,
                        packed + Product::kTerms * (column * buffers.padded_outputs + m * width));
        }
      }
    }
  }

  // grad_out of `outputs` <= kOutputBlock outputs and the tile to [m][pixel], zeros behind the last
  // pixel.
  void order_grad_out(int64_t output, int64_t outputs, T* target) const {
    const ImageTensor<const void> grad_out = like_out(p, tensors.grad_out);
    const int64_t count = tile.count, stride = buffers.tile;
    if (!p.channels_last) {
      for (int64_t m = 0; m < outputs; ++m) {
        T* row = target + m * stride;
        const int64_t index = grad_out.index(tile.image, output + m, tile.pixel);
        const T* source = read_row(grad_out.data, p.dtype, index, count, row);
        if (source != row) __builtin_memcpy(row, source, count * sizeof(T));
      }
    } else {
      T converted[kMaxTile][kOutputBlock];
      const T* source[kMaxTile];
      for (int64_t t = 0; t < count; ++t) {
        const int64_t index = grad_out.index(tile.image, output, tile.pixel + t);
        source[t] = read_row(grad_out.data, p.dtype, index, outputs, converted[t]);
      }
      transpose<16, 8>(count, outputs, [&](int64_t t) { return source[t]; }, target, stride);
    }
    for (int64_t m = 0; m < outputs && count < stride; ++m) {
      __builtin_memset(target + m * stride + count, 0, (stride - count) * sizeof(T));
    }
  }

  // For both products.
  void pack_grad_out_tile(int64_t image, int64_t t) {
    enter_tile(image, t);
    const int64_t stride = buffers.tile;
    for (int64_t output = 0, outputs; output < p.out_channels; output += outputs) {
      Element* const rows = buffers.grad_out_tile(image, t) + output * stride;
      if constexpr (!Product::kSplits) {
        outputs = smaller(kOutputBlock, p.out_channels - output);
        order_grad_out(output, outputs, rows);
      } else {
        // Blocks do not cross the ends of groups.
        const int64_t within = output % p.group_outputs();
        outputs = smaller(kOutputBlock, p.group_outputs() - within);
        order_grad_out(output, outputs, own.block);
        if (Product::kTerms > 1) largest.grad_out.include(own.block, outputs * stride);
        constexpr int kLanes = kVectorLanes<T>;
        for (int64_t i = 0; i < outputs * stride; i += kLanes) {
          Product::template store_terms<kLanes>(rows + i, p.out_channels * stride,
                                                load<kLanes>(own.block + i));
        }
        if (buffers.columns_wanted) pack_transposed(image, t, output, outputs);
      }
    }
  }

  // The outputs [output, output + outputs) of one group in own.block, to [pixel][m].
  void pack_transposed(int64_t image, int64_t t, int64_t output, int64_t outputs) {
    constexpr int kLanes = kVectorLanes<T>;
    static_assert(kOutputBlock == kLanes, "a row of the transposed block is one vector");
    T* const transposed = own.block + kOutputBlock * buffers.tile;
    if (outputs < kOutputBlock) {
      __builtin_memset(transposed, 0, buffers.tile * kOutputBlock * sizeof(T));
    }
    transpose<kOutputBlock, 16>(
        outputs, tile.count, [&](int64_t m) { return own.block + m * buffers.tile; }, transposed,
        kOutputBlock);
    const int64_t group = output / p.group_outputs(), within = output % p.group_outputs();
    const int64_t stride = p.groups * buffers.padded_outputs;
    Element* target = buffers.grad_pixel_tile(image, t) + group * buffers.padded_outputs + within;
    // Zeros up to the padded number of outputs.
    const bool pads = within + outputs == p.group_outputs() &&
                      round_up(p.group_outputs(), kOutputBlock) < buffers.padded_outputs;
    for (int64_t i = 0; i < tile.count; ++i) {
      Product::template store_terms<kLanes>(target, stride * buffers.tile,
                                            load<kLanes>(transposed + i * kOutputBlock));
      if (pads) {
        Product::template store_terms<kLanes>(target + kOutputBlock, stride * buffers.tile,
                                              Vector<T, kLanes>{});
      }
      target += stride;
    }
  }

  void enter_tile(int64_t image, int64_t t) {
    const int64_t pixel = t * buffers.tile;
    set_tile(p, first_image + image, pixel, smaller(buffers.tile, p.out_pixels() - pixel), tile);
  }
  // Of the images and tiles at hand.
  int64_t tile_image() const { return tile.image - first_image; }
  int64_t tile_index() const { return tile.pixel / buffers.tile; }

  // The gradient of a slab's columns in the tile.
  void multiply_weights(int64_t s) {
    const Slab slab = buffers.slabs[s];
    const int64_t columns = buffers.columns_in_group(slab, p.taps());
    __builtin_memset(own.grad_columns, 0, tile.count * buffers.column_stride * sizeof(T));
    for (int64_t g = 0; g < slab.groups; ++g) {
      Product::multiply(tile.count, columns, p.group_outputs(),
                        buffers.by_pixel(tile_image(), tile_index(), slab.group + g),
                        {buffers.weight + buffers.weight_at(s, g), buffers.padded_outputs, 0},
                        {own.grad_columns + g * columns, buffers.column_stride});
    }
  }

  // From it the gradients of x, offset and mask.
  void scatter(int64_t s) {
    const Slab slab = buffers.slabs[s];
    const ColumnLayout columns{slab.channels_per_group, buffers.columns_in_group(slab, p.taps())};
    const auto scatter_tap = buffers.coordinates_wanted
                                 ? (tensors.grad_x ? scatter_columns<true, true, T, Pixel>
                                                   : scatter_columns<true, false, T, Pixel>)
                                 : scatter_columns<false, true, T, Pixel>;
    T sums[kMaxTile][4];
    const GroupRange range = deformable_range(p, slab);
    for (int64_t d = range.first; d <= range.last; ++d) {
      const Image<const Pixel> x = this->x_image(slab, d);
      const Image<T> grad_x = this->grad_x_image(slab, d);
      for (int64_t tap = 0; tap < p.taps(); ++tap) {
        plan_samples(p, this->offset, this->mask, this->flow, tile, d, tap, *own.plan);
        scatter_tap(*own.plan, tile.count, x, grad_x, find_runs(p, slab, columns, d, tap),
                    own.grad_columns, buffers.column_stride, sums);
        if (!buffers.coordinates_wanted) continue;
        this->put_coordinate_gradients(*own.plan, s, d, tap, sums,
                                       tile_index() % buffers.band * buffers.tile);
      }
    }
  }

  // Samples the columns of a slab and the taps [first, first + count) in the tile, and adds their
  // product with grad_out to the weight's gradient.
  void multiply_columns(const Slab& slab, int64_t first, int64_t count, T* grad_weight) {
    const int64_t columns = buffers.columns_in_group(slab, count);
    this->sample(slab, first, count, {slab.channels_per_group, columns},
                 Columns<VectorProduct<T>>{own.columns, buffers.column_stride, 0});
    for (int64_t g = 0; g < slab.groups; ++g) {
      const auto grad_out = buffers.by_output(tile_image(), tile_index(), slab.group + g);
      const T* const right = own.columns + g * columns;
      T* const sum = grad_weight + buffers.grad_weight_at(0, g);
      if constexpr (!Product::kSplits) {
        multiply<T>(p.group_outputs(), columns, tile.count, grad_out,
                    {right, buffers.column_stride}, {sum, columns});
      } else {
        const int64_t depth = round_up(tile.count, Product::kDepthStep);
        for (int64_t column = 0; column < columns; column += Product::kPanel) {
          Product::pack(tile.count, smaller(Product::kPanel, columns - column), right + column,
                        buffers.column_stride, own.packed + Product::kTerms * column * depth);
        }
        Product::multiply(p.group_outputs(), columns, tile.count, grad_out, {own.packed, depth, 0},
                          {sum, columns});
      }
    }
  }

  // Of one output, through own.row.
  void write_weight_gradient(int64_t output) {
    const int64_t taps = p.taps(), group = output / p.group_outputs();
    const int64_t m = output % p.group_outputs();
    for (int64_t s = 0; s < buffers.slabs.count; ++s) {
      const Slab slab = buffers.slabs[s];
      const int64_t channels = slab.channels_per_group;
      if (group < slab.group || group >= slab.group + slab.groups) continue;
      for (int64_t chunk = 0; chunk < buffers.tap_chunks; ++chunk) {
        const int64_t first = chunk * buffers.taps_per_chunk;
        const int64_t count = smaller(buffers.taps_per_chunk, taps - first);
        const T* source =
            buffers.grad_weight +
            buffers.grad_weight_at(s * buffers.tap_chunks + chunk, group - slab.group) +
            m * buffers.columns_in_group(slab, count);
        transpose<8, 16>(
            count, channels, [&](int64_t tap) { return source + tap * channels; }, own.row + first,
            taps);
      }
      write_row(own.row, channels * taps, tensors.grad_weight, p.dtype,
                (output * p.group_channels() + slab.group_offset) * taps);
    }
  }
};

// Returns false, the results being wrong, where the products are not accurate.
template <typename Product>
bool backward(const Problem& p, const BackwardTensors& tensors, void* workspace, int threads) {
  const BackwardBuffers<Product> buffers(p, tensors, workspace, threads);
  const Largest largest =
      run_pass<BackwardPass<Product>, Product>(p, tensors, buffers, workspace, threads);
  return Product::kTerms == 1 ||
         (largest.grad_out.split_is_accurate_with(largest.weight) &&
          largest.grad_out.split_is_accurate_with(largest.x.times(largest.mask)));
}

}  // namespace dcn::cpu::DCN_ISA

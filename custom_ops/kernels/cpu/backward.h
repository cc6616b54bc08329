// The backward pass. Included like simd.h.
//
// Channels are cut into slabs. Two products, each as large as the forward one:
//   gradient of the columns   grad_columns[t][k] = sum over m of grad_out[m][t] * weight[m][k]
//   gradient of the weight    grad_weight[m][k]  = sum over n, t of grad_out[m][t] * columns[t][k]
// One task owns a slab of one image, or a slab and some taps of the weight gradient, and walks the
// pixels in order: nothing is written by two tasks, every sum has a fixed order, and results do
// not depend on the number of threads.

// A slab must not be much wider than a register panel: its image and gradient stay in the cache.
constexpr int64_t kBackwardSlab = 32;
constexpr int64_t kTapParts = 3;            // of the weight gradient's work on one slab
constexpr int64_t kPartialBytes = 4 << 20;  // of coordinate gradients per slab, about

template <typename T>
struct BackwardLayout {
  Slabs slabs;
  Parts parts;  // of x and its gradient
  bool columns_wanted, coordinates_wanted, x_wanted, weight_wanted, bias_wanted;
  int64_t images;  // at a time
  int64_t tiles;   // of kMaxTile pixels in an image
  int64_t band;    // tiles whose coordinate gradients are summed at a time
  int64_t taps_in_part, tap_parts;
  int64_t column_stride, shared_bytes, thread_bytes;
  T* x;            // arranged in parts
  T* grad_x;       // the same
  T* grad_out;     // [image][tile][m][kMaxTile]
  T* weight;       // per group of each slab: packed [m][columns]
  T* grad_weight;  // per group, slab and part: [m][columns]
  T* partials;     // [image][slab + deformable group][tap][y, x, mask][pixel of the band]

  BackwardLayout(const Problem& p, const BackwardTensors& wanted, void* workspace, int threads)
      : slabs(p, kBackwardSlab), parts(p, slabs) {
    x_wanted = wanted.grad_x != nullptr;
    coordinates_wanted = wanted.grad_offset != nullptr || wanted.grad_mask != nullptr;
    columns_wanted = x_wanted || coordinates_wanted;
    weight_wanted = wanted.grad_weight != nullptr;
    bias_wanted = wanted.grad_bias != nullptr;
    tiles = ceil_div(p.out_pixels(), kMaxTile);
    const Slab widest = slabs[0];
    taps_in_part = ceil_div(p.taps(), smaller(kTapParts, p.taps()));
    tap_parts = ceil_div(p.taps(), taps_in_part);
    column_stride = widest.groups * columns_in_group(widest, p.taps());
    const int64_t x_size = p.channels * p.in_pixels();
    const int64_t grad_out_size = tiles * p.out_channels * kMaxTile;
    images = images_at_a_time(p, (2 * x_size + grad_out_size) * sizeof(T));
    const int64_t tile_partials = partial_rows(p) * kMaxTile;
    band =
        smaller(tiles, larger(1, threads * kPartialBytes /
                                     (images * tile_partials * static_cast<int64_t>(sizeof(T)))));
    Arena arena(workspace);
    x = arena.take<T>(columns_wanted || weight_wanted ? images * x_size : 0);
    grad_x = arena.take<T>(x_wanted ? images * x_size : 0);
    grad_out = arena.take<T>(images * grad_out_size);
    weight = arena.take<T>(columns_wanted ? weight_size(p, p.taps()) : 0);
    grad_weight = arena.take<T>(weight_wanted ? tap_parts * weight_size(p, taps_in_part) : 0);
    partials = arena.take<T>(coordinates_wanted ? images * band * tile_partials : 0);
    shared_bytes = arena.used();
    Arena own(nullptr);
    thread_part(p, own);
    thread_bytes = own.used();
  }

  struct ThreadPart {
    T *columns, *grad_columns, *outside, *origins, *row;
    Plan<T>* plan;
  };
  ThreadPart thread_part(const Problem& p, Arena& arena) const {
    ThreadPart part;
    part.columns = arena.take<T>(weight_wanted ? kMaxTile * column_stride : 0);
    part.grad_columns = arena.take<T>(columns_wanted ? kMaxTile * column_stride : 0);
    part.outside = arena.take<T>(2 * slabs[0].channels);
    part.origins = arena.take<T>(2 * kMaxTile);
    part.row = arena.take<T>(slabs[0].piece * p.taps());
    part.plan = arena.take<Plan<T>>(1);
    return part;
  }

  // Columns of one group in a slab, rounded up to whole vectors.
  static int64_t columns_in_group(const Slab& slab, int64_t taps) {
    return round_up(slab.piece * taps, kVectorLanes<T>);
  }
  // Elements of all groups' and slabs' [m][columns] matrices with so many taps.
  int64_t weight_size(const Problem& p, int64_t taps) const {
    return weight_at(p, slabs.count, 0, taps);
  }
  // Where the matrix of a slab's i-th group begins. All but a group's last slab are equally wide.
  int64_t weight_at(const Problem& p, int64_t slab, int64_t i, int64_t taps) const {
    const int64_t columns = columns_in_group(slabs[0], taps);
    return (slab * slabs[0].groups + i) * p.group_outputs() * columns;
  }
  int64_t partial_rows(const Problem& p) const {
    return (slabs.count + p.deformable_groups - 1) * p.taps() * 3;
  }
  // The partial sums of slab s for deformable group d: walking through the channels, one of s and
  // d grows at each step, so s + d tells the pairs apart.
  T* partial(const Problem& p, int64_t image, int64_t slab, int64_t deformable_group, int64_t tap,
             int64_t which) const {
    const int64_t row = ((slab + deformable_group) * p.taps() + tap) * 3 + which;
    return partials + (image * partial_rows(p) + row) * band * kMaxTile;
  }
  const T* grad_out_tile(const Problem& p, int64_t image, int64_t t) const {
    return grad_out + (image * tiles + t) * p.out_channels * kMaxTile;
  }
};

// grad_out of one tile to [m][pixel], zeros behind the last pixel.
template <typename T>
void pack_grad_out(const Problem& p, const void* grad_out, int64_t image, int64_t pixel,
                   int64_t count, T* packed) {
  if (!p.channels_last) {
    for (int64_t m = 0; m < p.out_channels; ++m) {
      T* row = packed + m * kMaxTile;
      const int64_t index = (image * p.out_channels + m) * p.out_pixels() + pixel;
      const T* source = read_row(grad_out, p.dtype, index, count, row);
      if (source != row) __builtin_memcpy(row, source, count * sizeof(T));
    }
  } else {
    constexpr int64_t kBlock = 16;
    T converted[kMaxTile][kBlock];
    for (int64_t m = 0; m < p.out_channels; m += kBlock) {
      const int64_t width = smaller(kBlock, p.out_channels - m);
      const T* source[kMaxTile];
      for (int64_t t = 0; t < count; ++t) {
        const int64_t index = (image * p.out_pixels() + pixel + t) * p.out_channels + m;
        source[t] = read_row(grad_out, p.dtype, index, width, converted[t]);
      }
      transpose<16, 8>(
          count, width, [&](int64_t t) { return source[t]; }, packed + m * kMaxTile, kMaxTile);
    }
  }
  if (count < kMaxTile) {
    for (int64_t m = 0; m < p.out_channels; ++m) {
      __builtin_memset(packed + m * kMaxTile + count, 0, (kMaxTile - count) * sizeof(T));
    }
  }
}

// Packs the weights of one group in a slab: panels of columns (tap, channel), in each row m.
// `row` holds one output's weights if they have to be converted.
template <typename T>
void pack_backward_weights(const Problem& p, const void* weight, const Slab& slab, int64_t group,
                           T* row, T* packed) {
  const int64_t taps = p.taps(), outputs = p.group_outputs(), piece = slab.piece;
  const int64_t columns = BackwardLayout<T>::columns_in_group(slab, taps);
  if (columns > piece * taps) __builtin_memset(packed, 0, outputs * columns * sizeof(T));
  for (int64_t m = 0; m < outputs; ++m) {
    const int64_t first = ((slab.group + group) * outputs + m) * p.group_channels() + slab.first;
    const T* source = read_row(weight, p.dtype, first * taps, piece * taps, row);
    int64_t panel = 0, width = smaller(kPanel<T>, columns), left = width;
    T* target = packed + m * width;
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t c = 0; c < piece; ++c) {
        if (left == 0) {
          panel += width;
          width = smaller(kPanel<T>, columns - panel);
          left = width;
          target = packed + panel * outputs + m * width;
        }
        *target++ = source[c * taps + tap];
        --left;
      }
    }
  }
}

// Sums the four D_ab of one pixel over the vectors of a run: in registers while all vectors are
// equally long, else each vector by itself.
template <typename Shape, typename T>
struct Dots;
template <int kLanes, int kPieces, typename T>
struct Dots<RunShape<kLanes, kPieces>, T> {
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
template <bool kCoordinates, bool kX, typename Shape, typename T>
__attribute__((noinline)) void scatter_run(Shape shape, const Plan<T>& plan, int64_t pixels,
                                           const Image<const T>& image, const Image<T>& grad_image,
                                           const Run& run, const T* grad_columns,
                                           int64_t column_stride, T (*sums)[4]) {
  const int64_t count = run.count, repeats = run.repeats, column_step = run.column_step;
  const Image<const T> channels{image.data + run.channel, image.height, image.width, image.stride,
                                image.outside};
  const Image<T> grad_channels{grad_image.data + run.channel, image.height, image.width,
                               image.stride, grad_image.outside};
  const T* row = grad_columns + run.column;
  for (int64_t t = 0; t < pixels; ++t) {
    Corners<const T> from = find_corners(channels, plan.corner[t], plan.inside[t]);
    Corners<T> to = find_corners(grad_channels, plan.corner[t], plan.inside[t]);
    const T w00 = plan.w00[t], w01 = plan.w01[t], w10 = plan.w10[t], w11 = plan.w11[t];
    const T* source = row;
    Dots<Shape, T> dots;
    for (int64_t i = 0; i < repeats; ++i) {
      shape.for_vectors(count, [&](auto lanes, int64_t c) {
        constexpr int kLanes = decltype(lanes)::value;
        const auto g = load<kLanes>(source + c);
        if constexpr (kCoordinates) {
          dots.add(lanes, g * load<kLanes>(from.p00 + c), g * load<kLanes>(from.p01 + c),
                   g * load<kLanes>(from.p10 + c), g * load<kLanes>(from.p11 + c), sums[t]);
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

template <bool kCoordinates, bool kX, typename T>
void scatter_columns(const Plan<T>& plan, int64_t pixels, const Image<const T>& image,
                     const Image<T>& grad_image, const Runs& runs, const T* grad_columns,
                     int64_t column_stride, T (*sums)[4]) {
  if (kCoordinates) __builtin_memset(sums, 0, pixels * sizeof(sums[0]));
  for (int64_t i = 0; i < runs.count; ++i) {
    with_run_shape<T>(runs.run[i].count, [&](auto shape) {
      scatter_run<kCoordinates, kX>(shape, plan, pixels, image, grad_image, runs.run[i],
                                    grad_columns, column_stride, sums);
    });
  }
}

// The coordinate and mask gradients of one tap and tile from the D_ab, see sampling.h.
template <typename T>
void coordinate_gradients(const Plan<T>& plan, int64_t count, const T (*sums)[4], T* grad_y,
                          T* grad_x, T* grad_mask) {
  for (int64_t t = 0; t < count; ++t) {
    // What samples nothing has gradient 0 even if the column's gradient is NaN, and 0 * NaN is not.
    const bool samples = plan.inside[t] != 0;
    const T d00 = samples ? sums[t][0] : T(0), d01 = samples ? sums[t][1] : T(0);
    const T d10 = samples ? sums[t][2] : T(0), d11 = samples ? sums[t][3] : T(0);
    const T ly = plan.ly[t], lx = plan.lx[t];
    const CornerWeights<T> w = corner_weights(ly, lx);
    grad_y[t] = plan.mask[t] * y_gradient(lx, d00, d01, d10, d11);
    grad_x[t] = plan.mask[t] * x_gradient(ly, d00, d01, d10, d11);
    grad_mask[t] = w.w00 * d00 + w.w01 * d01 + w.w10 * d10 + w.w11 * d11;
  }
}

// The gradients that pass through one tile of one slab.
template <typename T>
void backward_tile(const Problem& p, const BackwardTensors& tensors,
                   const BackwardLayout<T>& layout,
                   const typename BackwardLayout<T>::ThreadPart& own, int64_t image, int64_t s,
                   int64_t t, int64_t band_tile, const Tile<T>& tile) {
  const Slab slab = layout.slabs[s];
  const ColumnLayout columns{slab.piece, BackwardLayout<T>::columns_in_group(slab, p.taps())};
  const int64_t stride = layout.column_stride;
  __builtin_memset(own.grad_columns, 0, tile.count * stride * sizeof(T));
  for (int64_t g = 0; g < slab.groups; ++g) {
    const T* grad_out =
        layout.grad_out_tile(p, image, t) + (slab.group + g) * p.group_outputs() * kMaxTile;
    multiply_packed(tile.count, columns.group_stride, p.group_outputs(),
                    LeftMatrix<T>{grad_out, 1, kMaxTile},
                    layout.weight + layout.weight_at(p, s, g, p.taps()), p.group_outputs(), 0,
                    own.grad_columns + g * columns.group_stride, stride);
  }
  const int64_t at = image * p.channels * p.in_pixels();
  T* const sink = own.outside + layout.slabs[0].channels;
  T sums[kMaxTile][4];
  const GroupRange range = deformable_range(p, slab);
  for (int64_t d = range.first; d <= range.last; ++d) {
    const Image<const T> x =
        part_image<const T>(p, layout.parts, layout.x + at, slab, d, own.outside);
    const Image<T> grad_x =
        part_image(p, layout.parts, layout.x_wanted ? layout.grad_x + at : sink, slab, d, sink);
    for (int64_t tap = 0; tap < p.taps(); ++tap) {
      make_plan(p, tensors.offset, tensors.mask, tile, d, tap, x, *own.plan);
      const Runs runs = find_runs(p, slab, columns, d, tap);
      const auto scatter =
          layout.coordinates_wanted
              ? (layout.x_wanted ? scatter_columns<true, true, T> : scatter_columns<true, false, T>)
              : scatter_columns<false, true, T>;
      scatter(*own.plan, tile.count, x, grad_x, runs, own.grad_columns, stride, sums);
      if (layout.coordinates_wanted) {
        T* rows[3];
        for (int64_t i = 0; i < 3; ++i) {
          rows[i] = layout.partial(p, image, s, d, tap, i) + band_tile * kMaxTile;
        }
        coordinate_gradients(*own.plan, tile.count, sums, rows[0], rows[1], rows[2]);
      }
    }
  }
}

// Sums the partial coordinate gradients of one deformable group and tap over its slabs, in order.
template <typename T>
void sum_partials(const Problem& p, const BackwardTensors& tensors, const BackwardLayout<T>& layout,
                  int64_t image, int64_t n, int64_t d, int64_t tap, int64_t pixel, int64_t count) {
  const int64_t plane = (n * p.deformable_groups + d) * p.taps() + tap;
  for (int64_t which = 0; which < 3; ++which) {
    void* target = which < 2 ? tensors.grad_offset : tensors.grad_mask;
    if (target == nullptr) continue;
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
    const int64_t row = which < 2 ? 2 * plane + which : plane;
    write_row(sum, count, target, p.offset_dtype, row * p.out_pixels() + pixel);
  }
}

// Adds one tile's part of the weight gradient of a slab's taps [first, first + count).
template <typename T>
void weight_gradient_tile(const Problem& p, const BackwardTensors& tensors,
                          const BackwardLayout<T>& layout,
                          const typename BackwardLayout<T>::ThreadPart& own, int64_t image,
                          int64_t s, int64_t t, int64_t first, int64_t count, T* grad_weight,
                          const Tile<T>& tile) {
  const Slab slab = layout.slabs[s];
  const ColumnLayout columns{slab.piece, BackwardLayout<T>::columns_in_group(slab, count)};
  const T* const copy = layout.x + image * p.channels * p.in_pixels();
  const GroupRange range = deformable_range(p, slab);
  for (int64_t d = range.first; d <= range.last; ++d) {
    const Image<const T> x = part_image<const T>(p, layout.parts, copy, slab, d, own.outside);
    for (int64_t tap = 0; tap < count; ++tap) {
      make_plan(p, tensors.offset, tensors.mask, tile, d, first + tap, x, *own.plan);
      sample_columns(*own.plan, tile.count, x, find_runs(p, slab, columns, d, tap), own.columns,
                     layout.column_stride);
    }
  }
  for (int64_t g = 0; g < slab.groups; ++g) {
    const T* grad_out =
        layout.grad_out_tile(p, image, t) + (slab.group + g) * p.group_outputs() * kMaxTile;
    multiply(p.group_outputs(), columns.group_stride, tile.count,
             LeftMatrix<T>{grad_out, kMaxTile, 1}, own.columns + g * columns.group_stride,
             layout.column_stride, grad_weight + layout.weight_at(p, 0, g, layout.taps_in_part),
             columns.group_stride);
  }
}

// Brings the weight gradient of one output into its place in memory, through `row`.
template <typename T>
void unpack_weight_gradient(const Problem& p, const BackwardTensors& tensors,
                            const BackwardLayout<T>& layout, int64_t output, T* row) {
  const int64_t taps = p.taps(), group = output / p.group_outputs();
  const int64_t m = output % p.group_outputs();
  for (int64_t s = 0; s < layout.slabs.count; ++s) {
    const Slab slab = layout.slabs[s];
    if (group < slab.group || group >= slab.group + slab.groups) continue;
    for (int64_t part = 0; part < layout.tap_parts; ++part) {
      const int64_t first = part * layout.taps_in_part;
      const int64_t count = smaller(layout.taps_in_part, taps - first);
      const T* source = layout.grad_weight +
                        layout.weight_at(p, s * layout.tap_parts + part, group - slab.group,
                                         layout.taps_in_part) +
                        m * BackwardLayout<T>::columns_in_group(slab, count);
      for (int64_t tap = 0; tap < count; ++tap) {
        for (int64_t c = 0; c < slab.piece; ++c) row[c * taps + first + tap] = *source++;
      }
    }
    write_row(row, slab.piece * taps, tensors.grad_weight, p.dtype,
              (output * p.group_channels() + slab.first) * taps);
  }
}

template <typename T>
int64_t backward_bytes(const Problem& p, const BackwardTensors& wanted, int threads) {
  const BackwardLayout<T> layout(p, wanted, nullptr, threads);
  return layout.shared_bytes + threads * layout.thread_bytes +
         p.out_channels * static_cast<int64_t>(sizeof(double));
}

template <typename T>
void backward(const Problem& p, const BackwardTensors& tensors, void* workspace, int threads) {
  const BackwardLayout<T> layout(p, tensors, workspace, threads);
  const int64_t slabs = layout.slabs.count, taps = p.taps(), tiles = layout.tiles;
  const bool needs_x = layout.columns_wanted || layout.weight_wanted;
  double* const bias_sums = reinterpret_cast<double*>(
      static_cast<char*>(workspace) + layout.shared_bytes + threads * layout.thread_bytes);
  const auto pixels_in_tile = [&](int64_t t) {
    return smaller(kMaxTile, p.out_pixels() - t * kMaxTile);
  };
  run_team(threads, [&](Team& team) {
    Arena arena(static_cast<char*>(workspace) + layout.shared_bytes +
                team.thread() * layout.thread_bytes);
    const auto own = layout.thread_part(p, arena);
    __builtin_memset(own.outside, 0, 2 * layout.slabs[0].channels * sizeof(T));
    if (layout.weight_wanted) {
      __builtin_memset(own.columns, 0, kMaxTile * layout.column_stride * sizeof(T));
    }
    Tile<T> tile{0, 0, 0, own.origins, own.origins + kMaxTile};
    if (layout.columns_wanted) {
      team.for_each(slabs, [&](int64_t s) {
        const Slab slab = layout.slabs[s];
        for (int64_t g = 0; g < slab.groups; ++g) {
          pack_backward_weights(p, tensors.weight, slab, g, own.row,
                                layout.weight + layout.weight_at(p, s, g, taps));
        }
      });
    }
    if (layout.bias_wanted) {
      team.for_each(p.out_channels, [&](int64_t m) { bias_sums[m] = 0; });
    }
    if (layout.weight_wanted) {
      const int64_t size = layout.weight_at(p, 1, 0, layout.taps_in_part);
      team.for_each(slabs * layout.tap_parts, [&](int64_t task) {
        __builtin_memset(layout.grad_weight + task * size, 0, size * sizeof(T));
      });
    }
    for (int64_t first_image = 0; first_image < p.batch; first_image += layout.images) {
      const int64_t images = smaller(layout.images, p.batch - first_image);
      team.for_each(images * tiles, [&](int64_t task) {
        const int64_t image = task / tiles, t = task % tiles;
        pack_grad_out(p, tensors.grad_out, first_image + image, t * kMaxTile, pixels_in_tile(t),
                      layout.grad_out + task * p.out_channels * kMaxTile);
      });
      if (needs_x) {
        copy_to_parts(p, tensors.x, layout.parts, first_image, images, team, layout.x);
      }
      if (layout.x_wanted) {
        team.for_each(images * layout.parts.count, [&](int64_t task) {
          const Parts::Range part = layout.parts[task % layout.parts.count];
          const int64_t first = task / layout.parts.count * p.channels + part.first;
          __builtin_memset(layout.grad_x + first * p.in_pixels(), 0,
                           part.count * p.in_pixels() * sizeof(T));
        });
      }
      if (layout.columns_wanted) {
        for (int64_t band = 0; band < tiles; band += layout.band) {
          const int64_t end = smaller(tiles, band + layout.band);
          team.for_each(images * slabs, [&](int64_t task) {
            const int64_t image = task / slabs, s = task % slabs;
            for (int64_t t = band; t < end; ++t) {
              set_tile(p, first_image + image, t * kMaxTile, pixels_in_tile(t), tile);
              backward_tile(p, tensors, layout, own, image, s, t, t - band, tile);
            }
          });
          if (!layout.coordinates_wanted) continue;
          const int64_t pixel = band * kMaxTile;
          const int64_t count = smaller(end * kMaxTile, p.out_pixels()) - pixel;
          team.for_each(images * p.deformable_groups * taps, [&](int64_t task) {
            const int64_t image = task / (p.deformable_groups * taps);
            sum_partials(p, tensors, layout, image, first_image + image,
                         task / taps % p.deformable_groups, task % taps, pixel, count);
          });
        }
      }
      if (layout.weight_wanted) {
        team.for_each(slabs * layout.tap_parts, [&](int64_t task) {
          const int64_t s = task / layout.tap_parts;
          const int64_t first = task % layout.tap_parts * layout.taps_in_part;
          T* grad_weight = layout.grad_weight + layout.weight_at(p, task, 0, layout.taps_in_part);
          for (int64_t i = 0; i < images * tiles; ++i) {
            const int64_t image = i / tiles, t = i % tiles;
            set_tile(p, first_image + image, t * kMaxTile, pixels_in_tile(t), tile);
            weight_gradient_tile(p, tensors, layout, own, image, s, t, first,
                                 smaller(layout.taps_in_part, taps - first), grad_weight, tile);
          }
        });
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
      if (layout.bias_wanted) {
        team.for_each(p.out_channels, [&](int64_t m) {
          for (int64_t i = 0; i < images * tiles; ++i) {
            const T* row = layout.grad_out + (i * p.out_channels + m) * kMaxTile;
            T sum = 0;
            for (int64_t t = 0; t < kMaxTile; ++t) sum += row[t];
            bias_sums[m] += static_cast<double>(sum);
          }
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
  });
}

// The forward pass: sample a tile of output pixels, multiply it at once. Included like simd.h.
//
//   out[t][m] = bias[m] + sum over k of columns[t][k] * weight[k][m]
//
// Columns exist for one tile and a few taps at a time, in the second-level cache.

constexpr int64_t kColumnBlock = 640;     // elements of one pixel's columns at a time, about
constexpr int64_t kCopyBytes = 64 << 20;  // of x in channels-last order at a time, about

// Images that are in the workspace at a time. `bytes` is what one image takes.
inline int64_t images_at_a_time(const Problem& p, int64_t bytes) {
  const int64_t fitting = larger(1, kCopyBytes / larger(bytes, 1));
  return larger(1, smaller(p.batch, p.im2col_step > 0 ? p.im2col_step : fitting));
}

// Few channels of all taps rather than all channels of few taps: the taps of a pixel sample nearly
// the same place, so that it stays in the cache.
inline int64_t forward_slab(const Problem& p) {
  return larger(16, smaller(512, kColumnBlock / p.taps() / 16 * 16));
}

template <typename T>
struct ForwardLayout {
  Slabs slabs;
  Parts parts;            // of the copy of x
  bool copies_x;          // x is not channels-last in the compute type yet
  int64_t images;         // at a time
  int64_t panel_outputs;  // outputs of a group, rounded up to whole vectors
  int64_t tile;           // output pixels in a tile, at most
  int64_t taps_at_a_time, column_stride, out_stride;
  T* x;              // the copy, arranged in parts
  T *weight, *bias;  // per group and output panel: [k][kPanel], [kPanel]
  int64_t shared_bytes, thread_bytes;

  ForwardLayout(const Problem& p, void* workspace, int threads)
      : slabs(p, forward_slab(p)), parts(p, slabs) {
    const int64_t lanes = kVectorLanes<T>;
    copies_x = !p.channels_last || p.dtype != kComputeType<T>;
    images =
        copies_x ? images_at_a_time(p, p.channels * p.in_pixels() * sizeof(T)) : larger(1, p.batch);
    panel_outputs = round_up(p.group_outputs(), lanes);
    const Slab widest = slabs[0];
    const int64_t blocks = ceil_div(p.taps() * widest.channels, kColumnBlock);
    taps_at_a_time = ceil_div(p.taps(), smaller(blocks, p.taps()));
    // One vector more, so that the rows of a tile do not fall into the same cache sets.
    column_stride = round_up(taps_at_a_time * widest.channels, lanes) + lanes;
    out_stride = widest.groups * panel_outputs + lanes;
    tile = choose_tile(p, threads);
    Arena arena(workspace);
    x = arena.take<T>(copies_x ? images * p.channels * p.in_pixels() : 0);
    weight = arena.take<T>(p.groups * panel_outputs * p.group_channels() * p.taps());
    bias = arena.take<T>(p.groups * panel_outputs);
    shared_bytes = arena.used();
    Arena own(nullptr);
    thread_part(own);
    thread_bytes = own.used();
  }

  struct ThreadPart {
    T *columns, *out, *zeros, *origins;
    Plan<T>* plan;
  };
  ThreadPart thread_part(Arena& arena) const {
    ThreadPart part;
    part.columns = arena.take<T>(tile * column_stride);
    part.out = arena.take<T>(tile * out_stride);
    part.zeros = arena.take<T>(slabs[0].channels);
    part.origins = arena.take<T>(2 * kMaxTile);
    part.plan = arena.take<Plan<T>>(1);
    return part;
  }

  // The number of tiles is such that all threads end at about the same time. Results do not
  // depend on it: each output is a sum over k, in order.
  static int64_t choose_tile(const Problem& p, int threads) {
    const int64_t pixels = p.out_pixels();
    const int64_t widest = smaller(kMaxTile, larger(kMaxRows, (1 << 20) / p.out_channels));
    const int64_t images = larger(1, p.batch);
    const int64_t fewest = ceil_div(pixels, widest);
    int64_t best = widest, best_cost = -1;
    for (int64_t tiles = fewest; tiles <= fewest + smaller(fewest, 16); ++tiles) {
      const int64_t size = ceil_div(pixels, tiles);
      const int64_t rounds = ceil_div(images * ceil_div(pixels, size), threads);
      // A tile costs its pixels, in steps of a third of a register block, and streams all weights.
      const int64_t cost = rounds * (round_up(size, kMaxRows / 3) + 8);
      if (best_cost < 0 || cost < best_cost) {
        best = size;
        best_cost = cost;
      }
    }
    return best;
  }
};

// Packs the weights of one group and output panel: rows in the order of the columns, that is slab
// by slab, tap by tap, channel by channel; [row][lane of the panel].
template <typename T>
void pack_forward_weights(const Problem& p, const void* weight, int64_t group, int64_t output,
                          int64_t panel, const Slabs& slabs, T* packed) {
  const int64_t taps = p.taps(), channels = p.group_channels(), depth = channels * taps;
  const int64_t outputs = smaller(panel, p.group_outputs() - output);
  const int64_t first_row = group * p.group_outputs() + output;
  if (outputs < panel) __builtin_memset(packed, 0, depth * panel * sizeof(T));
  constexpr int64_t kDepthBlock = 64;
  T converted[4][kDepthBlock];
  for (int64_t piece = 0; piece < channels; piece += slabs.piece) {
    const int64_t width = smaller(slabs.piece, channels - piece);
    T* const target = packed + piece * taps * panel;
    for (int64_t d0 = 0; d0 < width * taps; d0 += kDepthBlock) {
      const int64_t block = smaller(kDepthBlock, width * taps - d0);
      for (int64_t m = 0; m < outputs; m += 4) {
        const int64_t rows = smaller(4, outputs - m);
        const T* source[4];
        for (int64_t r = 0; r < rows; ++r) {
          source[r] = read_row(weight, p.dtype, (first_row + m + r) * depth + piece * taps + d0,
                               block, converted[r]);
        }
        int64_t c = d0 / taps, tap = d0 % taps;
        const auto next_row = [&] {
          T* row = target + (tap * width + c) * panel + m;
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
            transpose4x4(source[0] + d, source[1] + d, source[2] + d, source[3] + d, r0, r1, r2,
                         r3);
          }
        }
        for (; d < block; ++d) {
          T* row = next_row();
          for (int64_t r = 0; r < rows; ++r) row[r] = source[r][d];
        }
      }
    }
  }
}

// One tile: every slab, a few taps at a time, into `out`, then to its place in memory.
template <typename T>
void forward_tile(const Problem& p, const ForwardTensors& tensors, const ForwardLayout<T>& layout,
                  const typename ForwardLayout<T>::ThreadPart& own, const T* x,
                  const Tile<T>& tile) {
  const int64_t taps = p.taps(), depth = p.group_channels() * taps;
  for (int64_t s = 0; s < layout.slabs.count; ++s) {
    const Slab slab = layout.slabs[s];
    const int64_t out_columns = slab.groups * layout.panel_outputs;
    if (slab.first == 0) {
      const T* bias = layout.bias + slab.group * layout.panel_outputs;
      for (int64_t t = 0; t < tile.count; ++t) {
        __builtin_memcpy(own.out + t * layout.out_stride, bias, out_columns * sizeof(T));
      }
    }
    const GroupRange range = deformable_range(p, slab);
    for (int64_t first = 0; first < taps; first += layout.taps_at_a_time) {
      const int64_t count = smaller(layout.taps_at_a_time, taps - first);
      const ColumnLayout columns{slab.piece, count * slab.piece};
      for (int64_t d = range.first; d <= range.last; ++d) {
        const Image<const T> image =
            layout.copies_x
                ? part_image<const T>(p, layout.parts, x, slab, d, own.zeros)
                : Image<const T>{x + slab.channel, p.height, p.width, p.channels, own.zeros};
        for (int64_t tap = 0; tap < count; ++tap) {
          make_plan(p, tensors.offset, tensors.mask, tile, d, first + tap, image, *own.plan);
          sample_columns(*own.plan, tile.count, image, find_runs(p, slab, columns, d, tap),
                         own.columns, layout.column_stride);
        }
      }
      for (int64_t g = 0; g < slab.groups; ++g) {
        const T* weight = layout.weight + (slab.group + g) * layout.panel_outputs * depth;
        multiply_packed(
            tile.count, layout.panel_outputs, count * slab.piece,
            LeftMatrix<T>{own.columns + g * columns.group_stride, layout.column_stride, 1}, weight,
            depth, slab.first * taps + first * slab.piece, own.out + g * layout.panel_outputs,
            layout.out_stride);
      }
    }
    if (slab.first + slab.piece == p.group_channels()) {
      for (int64_t g = 0; g < slab.groups; ++g) {
        from_channels_last(own.out + g * layout.panel_outputs, layout.out_stride, p.group_outputs(),
                           tile.count, p.channels_last, tile.image,
                           (slab.group + g) * p.group_outputs(), p.out_channels, tile.pixel,
                           p.out_pixels(), tensors.out, p.dtype);
      }
    }
  }
}

template <typename T>
int64_t forward_bytes(const Problem& p, int threads) {
  const ForwardLayout<T> layout(p, nullptr, threads);
  return layout.shared_bytes + threads * layout.thread_bytes;
}

template <typename T>
void forward(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads) {
  const ForwardLayout<T> layout(p, workspace, threads);
  const int64_t panels = ceil_div(layout.panel_outputs, kPanel<T>);
  const int64_t depth = p.group_channels() * p.taps();
  const int64_t tiles = ceil_div(p.out_pixels(), layout.tile);
  run_team(threads, [&](Team& team) {
    Arena arena(static_cast<char*>(workspace) + layout.shared_bytes +
                team.thread() * layout.thread_bytes);
    const auto own = layout.thread_part(arena);
    __builtin_memset(own.zeros, 0, layout.slabs[0].channels * sizeof(T));
    team.for_each(p.groups * panels, [&](int64_t task) {
      const int64_t group = task / panels, output = task % panels * kPanel<T>;
      const int64_t first = group * layout.panel_outputs + output;
      const int64_t panel = smaller(kPanel<T>, layout.panel_outputs - output);
      pack_forward_weights(p, tensors.weight, group, output, panel, layout.slabs,
                           layout.weight + first * depth);
      const int64_t outputs = smaller(panel, p.group_outputs() - output);
      T converted[kPanel<T>];
      const T* bias =
          read_row(tensors.bias, p.dtype, group * p.group_outputs() + output, outputs, converted);
      for (int64_t m = 0; m < panel; ++m) layout.bias[first + m] = m < outputs ? bias[m] : T(0);
    });
    for (int64_t first_image = 0; first_image < p.batch; first_image += layout.images) {
      const int64_t images = smaller(layout.images, p.batch - first_image);
      if (layout.copies_x) {
        copy_to_parts(p, tensors.x, layout.parts, first_image, images, team, layout.x);
      }
      team.for_each(images * tiles, [&](int64_t task) {
        Tile<T> tile{0, 0, 0, own.origins, own.origins + kMaxTile};
        const int64_t n = first_image + task / tiles, pixel = task % tiles * layout.tile;
        set_tile(p, n, pixel, smaller(layout.tile, p.out_pixels() - pixel), tile);
        const T* x = layout.copies_x ? layout.x : static_cast<const T*>(tensors.x);
        forward_tile(p, tensors, layout, own, x + (n - first_image) * p.channels * p.in_pixels(),
                     tile);
      });
    }
  });
}

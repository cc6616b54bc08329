// Plain 3x3 convolution for inference, by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray,
// arXiv 1509.09308): a quarter of the products of the direct sum.
//
//   out tile = A^T [sum over channels of (G w G^T) * (B^T d B)] A
//
// where d is 6x6 pixels, w is 3x3, * is by elements, and out tile is 4x4 pixels. The matrices are
// those of the points 0, +-1/sqrt(2), +-sqrt(2) and infinity, with which rounding is smaller than
// with integers. A pixel that is NaN or infinite reaches all of the tiles that read it.
#pragma once

#include "activation-inl.h"
#include "pass-inl.h"

namespace dcn::cpu::DCN_ISA {

constexpr int64_t kOutTile = 4, kInTile = 6;
constexpr int kPoints = kInTile * kInTile;
constexpr double kRootHalf = 0.70710678118654752440, kRootTwo = 1.41421356237309504880;

// Rows of B^T times six values.
template <typename V>
DCN_INLINE void transform_input(const V (&d)[6], V (&t)[6]) {
  using T = std::remove_reference_t<decltype(d[0][0])>;
  constexpr T kA = static_cast<T>(kRootHalf), kB = static_cast<T>(kRootTwo);
  const V inner = d[4] - T(2) * d[2], odd_inner = kA * (d[3] - T(2) * d[1]);
  const V outer = d[4] - T(0.5) * d[2], odd_outer = kB * (d[3] - T(0.5) * d[1]);
  t[0] = d[0] + d[4] - T(2.5) * d[2];
  t[1] = inner + odd_inner;
  t[2] = inner - odd_inner;
  t[3] = outer + odd_outer;
  t[4] = outer - odd_outer;
  t[5] = d[1] + d[5] - T(2.5) * d[3];
}

// Rows of A^T times six values.
template <typename V>
DCN_INLINE void transform_output(const V (&m)[6], V (&y)[4]) {
  using T = std::remove_reference_t<decltype(m[0][0])>;
  constexpr T kA = static_cast<T>(kRootHalf), kB = static_cast<T>(kRootTwo);
  const V inner = m[1] + m[2], odd_inner = kA * (m[1] - m[2]);
  const V outer = m[3] + m[4], odd_outer = kB * (m[3] - m[4]);
  y[0] = m[0] + inner + outer;
  y[1] = odd_inner + odd_outer;
  y[2] = T(0.5) * inner + T(2) * outer;
  y[3] = T(0.5) * odd_inner + T(2) * odd_outer + m[5];
}

// Rows of G times three values.
inline void transform_weight(const double (&w)[3], double (&g)[6]) {
  const double inner = -2 * (w[0] + w[2] / 2) / 3, odd_inner = -2 * (kRootHalf * w[1]) / 3;
  const double outer = (w[0] + 2 * w[2]) / 6, odd_outer = kRootTwo * w[1] / 6;
  g[0] = w[0];
  g[1] = inner + odd_inner;
  g[2] = inner - odd_inner;
  g[3] = outer + odd_outer;
  g[4] = outer - odd_outer;
  g[5] = w[2];
}

// How the work is cut, and the workspace. Tiles are counted through all images.
struct WinogradBuffers {
  using T = float;
  using Product = VectorProduct<T>;

  static constexpr int64_t kBlockBytes = 1 << 19;  // of a thread's transformed tiles, about
  static constexpr int64_t kChannels = 32;  // that are transformed at a time, of x and of out

  int64_t tiles_y, tiles_x;       // of an image
  int64_t all;                    // of all images
  int64_t panel_outputs;          // padded
  int64_t tiles;                  // in a task, at most
  int64_t run;                    // of one row, in a task, at most
  int64_t in_stride, out_stride;  // of a transformed tile
  T* weight;                      // for each point packed [channel][output]
  int64_t shared_bytes, thread_bytes;

  WinogradBuffers(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads)
      : tiles_y(ceil_div(p.out_height, kOutTile)),
        tiles_x(ceil_div(p.out_width, kOutTile)),
        all(p.batch * tiles_y * tiles_x),
        panel_outputs(round_up(p.out_channels, Product::kColumnStep)) {
    // A cache line more, so that points do not fall into the same cache sets.
    constexpr int64_t kLine = 64 / sizeof(T);
    in_stride = round_up(p.channels, kLine) + kLine;
    out_stride = round_up(panel_outputs, kLine) + kLine;
    const int64_t fitting =
        kBlockBytes / (kPoints * (in_stride + out_stride) * static_cast<int64_t>(sizeof(T)));
    // Tiles enough to make up for reading the weights.
    const int64_t widest = larger(fitting, larger(24, (p.channels + panel_outputs) / 8));
    const int64_t tasks = round_up(ceil_div(larger(1, all), widest), threads);
    tiles = ceil_div(larger(1, all), tasks);
    run = smaller(tiles, tiles_x);
    Arena arena(workspace), kept(tensors.packed);
    take_weight(p, tensors.packed == nullptr ? arena : kept);
    shared_bytes = arena.used();
    thread_bytes = thread_buffers(nullptr).bytes;
  }

  void take_weight(const Problem& p, Arena& arena) {
    weight = arena.take<T>(kPoints * p.channels * panel_outputs);
  }

  // In a row of x, that `run` tiles read.
  static int64_t in_pixels(int64_t run) { return run * kOutTile + kInTile - kOutTile; }

  struct ThreadBuffers {
    T *in, *out;  // transformed tiles: [point][tile][channel], [point][tile][output]
    T* pixels;    // of a row of tiles: of x [6][4 * tiles + 2], of out [4][4 * tiles]
    T* addend;    // some pixels of it
    T* bias;
    int64_t bytes;
  };
  ThreadBuffers thread_buffers(void* memory) const {
    Arena arena(memory);
    ThreadBuffers own;
    own.in = arena.take<T>(kPoints * tiles * in_stride);
    own.out = arena.take<T>(kPoints * tiles * out_stride);
    own.pixels = arena.take<T>(kInTile * in_pixels(run) * kChannels);
    own.addend = arena.take<T>(kPixelBlock * kChannels);
    own.bias = arena.take<T>(panel_outputs);
    own.bytes = arena.used();
    return own;
  }
};

// One thread's way through it.
struct WinogradPass {
  using T = WinogradBuffers::T;
  using Product = WinogradBuffers::Product;
  static constexpr int kLanes = kVectorLanes<T>;

  const Problem& p;
  const ForwardTensors& tensors;
  const WinogradBuffers& buffers;
  Team& team;
  const WinogradBuffers::ThreadBuffers own;

  WinogradPass(const Problem& p, const ForwardTensors& tensors, const WinogradBuffers& buffers,
               void* workspace, Team& team)
      : p(p),
        tensors(tensors),
        buffers(buffers),
        team(team),
        own(own_buffers(buffers, workspace, team.thread())) {
    __builtin_memset(own.bias, 0, buffers.panel_outputs * sizeof(T));
    __builtin_memcpy(own.bias, tensors.bias, p.out_channels * sizeof(T));
  }

  void run() {
    if (tensors.packed == nullptr || tensors.packs) pack_weights();
    team.for_each(ceil_div(buffers.all, buffers.tiles), [&](int64_t task) {
      const int64_t first = task * buffers.tiles;
      compute(first, smaller(buffers.tiles, buffers.all - first));
    });
  }

  // Phase: for each point [channel][output], in the product's panels.
  void pack_weights() {
    const int64_t panels = ceil_div(buffers.panel_outputs, Product::kPanel);
    team.for_each(panels * p.channels, [&](int64_t task) {
      const int64_t output = task / p.channels * Product::kPanel, channel = task % p.channels;
      const int64_t width = smaller(Product::kPanel, buffers.panel_outputs - output);
      for (int64_t m = 0; m < width; ++m) {
        double rows[3][6], points[6][6] = {};
        if (output + m < p.out_channels) {
          const T* w = static_cast<const T*>(tensors.weight) +
                       ((output + m) * p.channels + channel) * p.taps();
          for (int i = 0; i < 3; ++i) {
            transform_weight({w[3 * i], w[3 * i + 1], w[3 * i + 2]}, rows[i]);
          }
          for (int j = 0; j < 6; ++j) {
            double column[6];
            transform_weight({rows[0][j], rows[1][j], rows[2][j]}, column);
            for (int i = 0; i < 6; ++i) points[i][j] = column[i];
          }
        }
        for (int point = 0; point < kPoints; ++point) {
          T* const packed = weight_of(point) + output * p.channels + channel * width;
          packed[m] = static_cast<T>(points[point / 6][point % 6]);
        }
      }
    });
  }

  T* weight_of(int point) const {
    return buffers.weight + point * p.channels * buffers.panel_outputs;
  }

  // Tiles that stand beside one another in a row.
  struct Run {
    int64_t at, count;    // [at, at + count) of the task's tiles
    int64_t image, y, x;  // where its output begins
  };

  // f(run) for all runs of the tiles [first, first + count).
  template <typename F>
  void for_runs(int64_t first, int64_t count, F f) {
    for (int64_t at = 0; at < count;) {
      const int64_t row = (first + at) / buffers.tiles_x, column = (first + at) % buffers.tiles_x;
      const int64_t tiles = smaller(count - at, buffers.tiles_x - column);
      f(Run{at, tiles, row / buffers.tiles_y, row % buffers.tiles_y * kOutTile, column * kOutTile});
      at += tiles;
    }
  }

  // The tiles [first, first + count).
  void compute(int64_t first, int64_t count) {
    constexpr int64_t kChannels = WinogradBuffers::kChannels;
    for_runs(first, count, [&](const Run& run) {
      for (int64_t c = 0; c < p.channels; c += kChannels) {
        read_tiles(run, c, smaller(kChannels, p.channels - c));
      }
    });
    for (int point = 0; point < kPoints; ++point) {
      T* const out = own.out + point * buffers.tiles * buffers.out_stride;
      __builtin_memset(out, 0, count * buffers.out_stride * sizeof(T));
      Product::multiply(
          count, buffers.panel_outputs, p.channels,
          Product::left(own.in + point * buffers.tiles * buffers.in_stride, buffers.in_stride, 0),
          {weight_of(point), p.channels, 0}, {out, buffers.out_stride});
    }
    for_runs(first, count, [&](const Run& run) {
      for (int64_t m = 0; m < p.out_channels; m += kChannels) {
        write_tiles(run, m, smaller(kChannels, p.out_channels - m));
      }
    });
  }

  // Transforms the channels [channel, channel + channels) of a run.
  void read_tiles(const Run& run, int64_t channel, int64_t channels) {
    const int64_t width = WinogradBuffers::in_pixels(run.count);
    const int64_t left = run.x - p.pad_left;
    const int64_t begin = smaller(larger(left, 0), p.width);
    const int64_t end = larger(begin, smaller(left + width, p.width));
    for (int64_t i = 0; i < kInTile; ++i) {
      T* const row = own.pixels + i * width * channels;
      const int64_t y = run.y - p.pad_top + i;
      if (y < 0 || y >= p.height || begin == end) {
        __builtin_memset(row, 0, width * channels * sizeof(T));
        continue;
      }
      __builtin_memset(row, 0, (begin - left) * channels * sizeof(T));
      for (int64_t x = begin; x < end; x += kPixelBlock) {
        to_channels_last(
            like_x(p, tensors.x),
            {run.image, channel, channels, y * p.width + x, smaller(kPixelBlock, end - x)},
            row + (x - left) * channels);
      }
      __builtin_memset(row + (end - left) * channels, 0,
                       (left + width - end) * channels * sizeof(T));
    }
    const int64_t point_stride = buffers.tiles * buffers.in_stride;
    for (int64_t t = 0; t < run.count; ++t) {
      const T* const source = own.pixels + t * kOutTile * channels;
      T* const target = own.in + (run.at + t) * buffers.in_stride + channel;
      for_lanes<kLanes>(channels, [&](auto lanes, int64_t c) {
        constexpr int kCount = decltype(lanes)::value;
        using V = Vector<T, kCount>;
        V columns[6][6];  // [j][i]
        for (int j = 0; j < 6; ++j) {
          V d[6];
          for (int i = 0; i < 6; ++i) d[i] = load<kCount>(source + (i * width + j) * channels + c);
          transform_input(d, columns[j]);
        }
        for (int i = 0; i < 6; ++i) {
          V d[6], points[6];
          for (int j = 0; j < 6; ++j) d[j] = columns[j][i];
          transform_input(d, points);
          for (int j = 0; j < 6; ++j) {
            store<kCount>(target + (6 * i + j) * point_stride + c, points[j]);
          }
        }
      });
    }
  }

  // Transforms the outputs [output, output + outputs) of a run, and does what is left.
  void write_tiles(const Run& run, int64_t output, int64_t outputs) {
    constexpr int64_t kStride = WinogradBuffers::kChannels;
    const int64_t width = run.count * kOutTile;
    const int64_t point_stride = buffers.tiles * buffers.out_stride;
    for (int64_t t = 0; t < run.count; ++t) {
      const T* const source = own.out + (run.at + t) * buffers.out_stride + output;
      for (int64_t m = 0; m < outputs; m += kLanes) {
        using V = Vector<T, kLanes>;
        const V bias = load<kLanes>(own.bias + output + m);
        V columns[6][4];
        for (int j = 0; j < 6; ++j) {
          V points[6];
          for (int i = 0; i < 6; ++i) {
            points[i] = load<kLanes>(source + (6 * i + j) * point_stride + m);
          }
          transform_output(points, columns[j]);
        }
        for (int i = 0; i < 4; ++i) {
          V points[6], y[4];
          for (int j = 0; j < 6; ++j) points[j] = columns[j][i];
          transform_output(points, y);
          T* const target = own.pixels + (i * width + t * kOutTile) * kStride + m;
          for (int j = 0; j < 4; ++j) store<kLanes>(target + j * kStride, y[j] + bias);
        }
      }
    }
    const int64_t columns = smaller(width, p.out_width - run.x);
    for (int64_t i = 0; i < smaller(kOutTile, p.out_height - run.y); ++i) {
      T* const pixels = own.pixels + i * width * kStride;
      const int64_t first = (run.y + i) * p.out_width + run.x;
      const Region region{run.image, output, outputs, first, columns};
      if (tensors.addend != nullptr) add(region, pixels);
      activate(p, columns, outputs, pixels, kStride);
      from_channels_last(pixels, kStride, region, like_out(p, tensors.out));
    }
  }

  // Adds the addend to what is to be written to a region.
  void add(Region region, T* pixels) {
    const int64_t all = region.pixels;
    for (int64_t i = 0; i < all; i += kPixelBlock) {
      region.pixels = smaller(kPixelBlock, all - i);
      to_channels_last(like_out(p, tensors.addend), region, own.addend);
      for (int64_t j = 0; j < region.pixels; ++j) {
        T* const target = pixels + (i + j) * WinogradBuffers::kChannels;
        const T* const source = own.addend + j * region.channels;
        for (int64_t m = 0; m < region.channels; ++m) target[m] += source[m];
      }
      region.pixel += kPixelBlock;
    }
  }
};

inline bool winograd_forward(const Problem& p, const ForwardTensors& tensors, void* workspace,
                             int threads) {
  const WinogradBuffers buffers(p, tensors, workspace, threads);
  run_team(threads, [&](Team& team) { WinogradPass(p, tensors, buffers, workspace, team).run(); });
  return true;
}

}  // namespace dcn::cpu::DCN_ISA

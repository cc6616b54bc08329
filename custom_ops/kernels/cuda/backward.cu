// The backward launcher: layout, choice of tiles, images at a time.
#include "backward_bias.cuh"
#include "backward_data.cuh"
#include "backward_weight.cuh"
#include "direct.h"
#include "gather.cuh"
#include "host.cuh"

namespace dcn {
namespace cuda {
namespace {

constexpr int64_t kBudget = 127 * kMiB / 2;  // of the workspace, unless an image needs more
// x and both gradients, where atomics go to grad_x: what the L2 cache of an H200 serves well.
constexpr int64_t kCacheBudget = 40 * kMiB;
constexpr int64_t kPartialBudget = 20 * kMiB;  // of the workspace for partial weight gradients
constexpr int64_t kChunkBudget = 25 * kMiB;    // then for column gradients and their lists
constexpr int64_t kLeastBudget = 16 * kMiB;    // for either, however large an image is
constexpr int64_t kBiasSplits = 256;           // ranges of pixels at most

// Data: output pixels x channels. Weight: output channels x elements of the reduction. Narrow is
// for few channels per (deformable) group.
template <typename T>
struct BackwardTiles {
  struct Data {
    using Wide = TensorProduct<T, 2, 4, 2, 4, 2>;    // 64 x 128
    using Tall = TensorProduct<T, 4, 2, 2, 4, 2>;    // 128 x 64
    using Medium = TensorProduct<T, 2, 2, 2, 4, 3>;  // 64 x 64
    using Narrow = TensorProduct<T, 4, 1, 2, 2, 4>;  // 128 x 16
  };
  struct Weight {
    using Wide = TensorProduct<T, 4, 4, 4, 4, 1>;  // 256 x 128
    using Tall = Wide;
    using Medium = TensorProduct<T, 2, 2, 2, 4, 3>;  // 64 x 64
    using Narrow = TensorProduct<T, 1, 4, 1, 4, 3>;  // 16 x 128
  };
};
template <>
struct BackwardTiles<double> {
  struct Data {
    using Wide = ScalarProduct<double, 16, 8, 4, 4, false, 2>;  // 64 x 32
    using Tall = Wide;
    using Medium = Wide;
    using Narrow = ScalarProduct<double, 32, 4, 4, 4, false, 3>;  // 128 x 16
  };
  struct Weight {
    using Wide = ScalarProduct<double, 16, 8, 4, 4, true, 3>;  // 64 x 32
    using Tall = Wide;
    using Medium = Wide;
    using Narrow = ScalarProduct<double, 8, 16, 2, 4, true, 2>;  // 16 x 64
  };
};

enum class Width { kWide, kTall, kMedium, kNarrow };

// How many segments of so many channels a tile of the weight gradient's columns touches.
template <typename Tile>
int64_t column_segments(int64_t segment) {
  if (segment % Tile::kColumns == 0) return 1;
  return (Tile::kColumns - 1) / segment + (Tile::kColumns % segment == 0 ? 1 : 2);
}

template <typename T>
Width weight_width(const Problem& p, int64_t segment) {
  using Tiles = typename BackwardTiles<T>::Weight;
  return p.group_outputs() <= 2 * Tiles::Narrow::kRows ? Width::kNarrow
         : p.group_outputs() <= 2 * Tiles::Medium::kRows ||
                 weight_shared_bytes<T, int, typename Tiles::Wide>(
                     column_segments<typename Tiles::Wide>(segment)) > shared_limit()
             ? Width::kMedium
             : Width::kWide;
}

// Calls run(Tile*) with the tile type of that width.
template <typename Tiles, typename Run>
void with_tile(Width width, bool wide_index, const Run& run) {
  if (wide_index) {
    run(static_cast<typename Tiles::Medium*>(nullptr));
  } else if (width == Width::kWide) {
    run(static_cast<typename Tiles::Wide*>(nullptr));
  } else if (width == Width::kTall) {
    run(static_cast<typename Tiles::Tall*>(nullptr));
  } else if (width == Width::kMedium) {
    run(static_cast<typename Tiles::Medium*>(nullptr));
  } else {
    run(static_cast<typename Tiles::Narrow*>(nullptr));
  }
}

inline BiasLayout split_bias(const Problem& p) {
  const int64_t pixels = p.batch * p.out_pixels();
  const int64_t splits = std::min(ceil_div(pixels, p.channels_last ? 256 : 4096), kBiasSplits);
  return {p.out_channels, pixels, p.out_pixels(), splits,
          splits > 0 ? round_up(ceil_div(pixels, splits), 16) : 0};
}

// Into how many ranges to split a reduction of so many slices, so that `tiles` blocks a range, of
// which `slots` run at a time, take the least time. A block's start and end cost it a few slices.
int64_t fewest_slices(int64_t tiles, int64_t slots, int64_t slices, int64_t most) {
  constexpr int64_t kBlockCost = 6;
  int64_t best = 1, least = INT64_MAX;
  for (int64_t splits = 1; splits <= std::min<int64_t>(most, 64) || splits == 1; ++splits) {
    const int64_t cost = ceil_div(tiles * splits, slots) * (ceil_div(slices, splits) + kBlockCost);
    if (cost < least) {
      best = splits;
      least = cost;
    }
  }
  return best;
}

// What goes through the kernels for the gradients of x, offset and mask at a time, and the units of
// channels in their blocks' items: see backward_data.cuh.
struct DataPlan {
  Width width;
  int64_t unit_groups, unit_channels;
  int64_t images, groups, channels;  // of a chunk; `channels` of each deformable group

  // `gathers`: the column gradients are stored, as many at a time as kChunkBudget has room for.
  template <typename T>
  void choose(const Problem& p, const Segments& inputs, const Batches& batches, bool gathers,
              int64_t budget) {
    using Tiles = typename BackwardTiles<T>::Data;
    const int64_t deformable_channels = inputs.packed_channels() / p.deformable_groups;
    const int64_t group_channels = inputs.packed_channels() / p.groups;
    const bool nested =
        group_channels % deformable_channels == 0 || deformable_channels % group_channels == 0;
    const int64_t run = nested ? group_channels : inputs.padded;  // multiplied at a time
    const int64_t bins = BinMemory<T>::plane_bytes(p);
    const int64_t channel_bytes = p.out_pixels() * p.taps() * static_cast<int64_t>(sizeof(T));
    const int64_t group_bytes = bins + deformable_channels * channel_bytes;
    const bool wide_chunk = !gathers || bins + Tiles::Wide::kColumns * channel_bytes <= budget;
    width =
        run <= 2 * Tiles::Narrow::kColumns ? Width::kNarrow
        : std::min(run, deformable_channels) <= Tiles::Medium::kColumns ||
                DataTile<T, typename Tiles::Wide>::template shared_bytes<int>(1) > shared_limit()
            ? Width::kMedium
        : wide_chunk ? Width::kWide
                     : Width::kTall;
    int64_t pixel_tiles = 1, slots = 1;
    with_tile<Tiles>(width, batches.wide, [&](auto* tile) {
      using Tile = std::remove_pointer_t<decltype(tile)>;
      constexpr int64_t kColumns = Tile::kColumns;
      unit_groups = 1;
      if (nested && deformable_channels < group_channels) {
        const int64_t most = std::min(kColumns, group_channels) / deformable_channels;
        for (int64_t n = 2; n <= most; ++n) {
          if (group_channels / deformable_channels % n == 0 &&
              (!gathers || n * group_bytes <= budget) &&
              DataTile<T, Tile>::template shared_bytes<int64_t>(n) <= shared_limit()) {
            unit_groups = n;
          }
        }
      }
      unit_channels = std::min(deformable_channels, std::max<int64_t>(kColumns, 64));
      pixel_tiles = ceil_div(batches.images * p.out_pixels(), Tile::kRows);
      slots = int64_t{processors()} * Tile::kMinBlocks;
    });

    images = batches.images;
    groups = p.deformable_groups;
    channels = deformable_channels;
    if (gathers && groups * group_bytes <= budget) {
      images = std::min(images, budget / (groups * group_bytes));
    } else if (gathers && (unit_channels == channels || group_bytes <= budget)) {
      images = 1;
      const int64_t most = std::max(budget / group_bytes / unit_groups, int64_t{1});
      const int64_t units = ceil_div(groups, unit_groups);
      groups = std::min(groups, ceil_div(units, ceil_div(units, most)) * unit_groups);
    } else if (gathers) {
      images = groups = 1;
      const int64_t most = std::max((budget - bins) / (unit_channels * channel_bytes), int64_t{1});
      channels = std::min(channels, most * unit_channels);
    }
    // Shares are spared where there are enough items without.
    if (channels == deformable_channels &&
        pixel_tiles * p.taps() * p.deformable_groups >= 2 * slots) {
      unit_channels = deformable_channels;
    }
  }
};

template <typename T>
struct Plan {
  using S = Sum<T>;

  Segments inputs, outputs;
  WeightLayout weight_layout;
  BiasLayout bias_layout;
  Batches batches;
  bool data, gathers, round;
  DataPlan chunk;
  int64_t splits, group_units;
  T* weight;
  T* x;         // null where the caller's is packed already
  T* grad_out;  // likewise
  S* bias_partial;
  S* grad_weight;  // packed sum over the images so far; null where all go through at a time
  // Of the weight gradient, `splits` packed sums; before and in the same memory as what follows.
  S* partial;
  S* grad_x;   // null where it is gathered, or the caller's is packed and of type S already
  T* columns;  // null where grad_x is not gathered
  BinMemory<T> bins;
  S* shares;  // null where a unit has whole deformable groups
  size_t bytes;

  Plan(const Problem& p, const BackwardTensors& t, void* workspace, int flags)
      : inputs(input_segments(p, Vector<T>::kSize)), outputs(output_segments(p, Vector<T>::kSize)) {
    weight_layout = {p.groups,
                     p.group_outputs(),
                     p.taps(),
                     {inputs.count / p.groups, inputs.size, inputs.padded},
                     {1, outputs.size, outputs.padded}};
    bias_layout = split_bias(p);
    data = t.grad_x || t.grad_offset || t.grad_mask;
    gathers = t.grad_x && flags & kDeterministic;
    round = std::is_same<T, TensorFloat32>::value;
    const bool products = data || t.grad_weight;

    const bool x_packed = p.channels_last && inputs.size == inputs.padded;
    const bool y_packed = p.channels_last && outputs.size == outputs.padded && !round;
    const int64_t image = p.in_pixels() * inputs.packed_channels();
    const int64_t x_size = products && !(x_packed && aligned(t.x)) ? image : 0;
    const int64_t y_size = products && !(y_packed && aligned(t.grad_out))
                               ? p.out_pixels() * outputs.packed_channels()
                               : 0;
    const bool scatters =
        t.grad_x && !gathers && !(x_packed && aligned(t.grad_x) && sizeof(T) == sizeof(S));
    const int64_t grad_x_size = scatters ? image : 0;
    const int64_t deformable_channels = inputs.packed_channels() / p.deformable_groups;
    const int64_t rows = p.out_pixels() * p.taps();
    int64_t elements = image_elements(p, inputs, outputs);
    if (gathers) elements = std::max(elements, rows * std::min<int64_t>(deformable_channels, 128));
    constexpr int64_t kSize = sizeof(T), kSumSize = sizeof(S);
    const int64_t partial_bytes = weight_layout.forward_size() * kSumSize;
    const int64_t budget = kBudget - (data ? weight_layout.backward_size() * kSize : 0) -
                           (t.grad_weight ? partial_bytes : 0) -
                           (t.grad_bias ? bias_layout.splits * p.out_channels * kSumSize : 0);
    const int64_t packed_bytes = (x_size + y_size) * kSize;
    batches = split_batch(p, elements, packed_bytes + grad_x_size * kSumSize, flags,
                          budget - (gathers ? kChunkBudget : 0));
    const auto allow = [&](int64_t bytes, int64_t most) {
      batches.images =
          std::min(batches.images, split_batch(p, elements, bytes, flags, most).images);
    };
    if (t.grad_weight) allow(packed_bytes, budget - std::max(kPartialBudget, partial_bytes));
    if (t.grad_x && !gathers) {
      const int64_t out_image = p.out_pixels() * outputs.packed_channels();
      allow((image + out_image) * kSize + image * kSumSize, kCacheBudget);
    }
    // Less than these budgets where images are large.
    const int64_t left = std::max(budget - batches.images * packed_bytes, kLeastBudget);
    const int64_t chunk_budget = gathers ? std::min(kChunkBudget, left) : 0;
    const int64_t partial_budget = std::min(kPartialBudget, left);

    splits = 1;
    if (t.grad_weight) {
      with_tile<typename BackwardTiles<T>::Weight>(
          weight_width<T>(p, inputs.padded), batches.wide, [&](auto* tile) {
            using Tile = std::remove_pointer_t<decltype(tile)>;
            const int64_t tiles =
                p.groups * ceil_div(p.group_outputs(), Tile::kRows) *
                ceil_div(p.taps() * inputs.packed_channels() / p.groups, Tile::kColumns);
            splits = fewest_slices(tiles, int64_t{processors()} * Tile::kMinBlocks,
                                   ceil_div(batches.images * p.out_pixels(), Slice<T>::kDepth),
                                   partial_budget / partial_bytes);
          });
    }
    chunk.choose<T>(p, inputs, batches, gathers, flags & kSmallChunks ? 0 : chunk_budget);
    group_units = ceil_div(chunk.channels, chunk.unit_channels);
    const int64_t planes = gathers ? chunk.images * chunk.groups : 0;
    const bool shared = (t.grad_offset || t.grad_mask) && chunk.unit_channels < deformable_channels;

    Arena arena(workspace);
    weight = arena.take<T>(data ? weight_layout.backward_size() : 0);
    x = arena.take<T>(x_size * batches.images);
    grad_out = arena.take<T>(y_size * batches.images);
    bias_partial = arena.take<S>(t.grad_bias ? bias_layout.splits * p.out_channels : 0);
    const bool sums = t.grad_weight && batches.images < p.batch;
    grad_weight = arena.take<S>(sums ? weight_layout.forward_size() : 0);
    Arena partials = arena;
    partial = partials.take<S>(t.grad_weight ? splits * weight_layout.forward_size() : 0);
    grad_x = arena.take<S>(grad_x_size * batches.images);
    columns = arena.take<T>(planes * rows * chunk.channels);
    bins.take(arena, p, planes);
    shares =
        arena.take<S>(shared ? 3 * group_units * chunk.images * p.deformable_groups * rows : 0);
    bytes = std::max(arena.used(), partials.used());
    if (x_size == 0) x = nullptr;
    if (y_size == 0) grad_out = nullptr;
    if (!sums) grad_weight = nullptr;
    if (!scatters) grad_x = nullptr;
    if (!gathers) columns = nullptr;
    if (!shared) shares = nullptr;
  }
};

// The images from `first` on, while they are packed.
template <typename T, typename Index>
struct Images {
  Queue& queue;
  const Problem& p;
  const BackwardTensors& t;
  const Plan<T>& plan;
  int64_t first, count;
  Geometry<Index> geometry;
  Inputs<T> inputs;
  const T* grad_out;

  Images(Queue& q, const Problem& problem, const BackwardTensors& tensors, const Plan<T>& pl,
         int64_t first_image, int64_t images)
      : queue(q), p(problem), t(tensors), plan(pl), first(first_image), count(images) {
    const T* x = advance<T>(t.x, first * p.channels * p.in_pixels());
    if (plan.x) {
      pack_images(queue, plan.inputs, p.channels_last, count, p.in_pixels(), false, x, plan.x);
      x = plan.x;
    }
    grad_out = advance<T>(t.grad_out, first * p.out_channels * p.out_pixels());
    if (plan.grad_out) {
      pack_images(queue, plan.outputs, p.channels_last, count, p.out_pixels(), plan.round, grad_out,
                  plan.grad_out);
      grad_out = plan.grad_out;
    }
    geometry = dcn::cuda::geometry<Index>(p, plan.inputs, count);
    inputs = {x, advance_bytes(t.offset, 2 * mask_bytes(first)),
              advance_bytes(t.mask, mask_bytes(first)), p.offset_dtype == DataType::kFloat32};
  }

  // From the start of mask to an image's part.
  int64_t mask_bytes(int64_t image) const {
    return image * p.deformable_groups * p.taps() * p.out_pixels() * offset_size<T>(p);
  }
  void* mine(void* gradient, int64_t bytes) const {
    return gradient ? static_cast<char*>(gradient) + bytes : nullptr;
  }

  void weight_gradient() {
    WeightArguments<T, Index> a;
    a.geometry = geometry;
    a.inputs = inputs;
    a.grad_out = grad_out;
    a.partial = plan.partial;
    a.groups = static_cast<Index>(p.groups);
    a.group_outputs = static_cast<Index>(p.group_outputs());
    a.packed_outputs = static_cast<Index>(plan.outputs.padded);
    a.split_pixels = static_cast<Index>(
        ceil_div(ceil_div(geometry.pixels, plan.splits), Slice<T>::kDepth) * Slice<T>::kDepth);
    run_tile<typename BackwardTiles<T>::Weight>(
        weight_width<T>(p, plan.inputs.padded), [&](auto* tile) {
          using Tile = std::remove_pointer_t<decltype(tile)>;
          a.row_tiles = static_cast<Index>(ceil_div(a.group_outputs, Tile::kRows));
          a.column_tiles =
              static_cast<Index>(ceil_div(geometry.taps * geometry.group_channels, Tile::kColumns));
          a.segment = static_cast<Index>(plan.inputs.padded);
          a.segments = static_cast<int>(column_segments<Tile>(plan.inputs.padded));
          const int64_t tiles = int64_t{a.row_tiles} * a.column_tiles * a.groups * plan.splits;
          queue.run<true>(backward_weight_kernel<T, Index, Tile>, tiles, Tile::kThreads,
                          weight_shared_bytes<T, Index, Tile>(a.segments), a);
        });
    if (plan.grad_weight) {
      sum_parts(queue, plan.weight_layout.forward_size(), plan.splits, plan.partial,
                plan.grad_weight, first > 0);
    } else {
      write_weight_gradient(plan.splits, plan.partial);
    }
  }
  // The sum of packed ones.
  void write_weight_gradient(int64_t parts, Sum<T>* packed) {
    unpack(queue, plan.weight_layout.forward(), parts, packed, static_cast<T*>(t.grad_weight));
  }

  void data_gradients() {
    DataArguments<T, Index> a;
    a.geometry = geometry;
    a.inputs = inputs;
    a.grad_out = grad_out;
    a.weight = plan.weight;
    const int64_t image_size = p.in_pixels() * plan.inputs.packed_channels();
    a.columns = plan.columns;
    a.grad_x = plan.gathers ? nullptr
               : plan.grad_x
                   ? plan.grad_x
                   : static_cast<Sum<T>*>(mine(t.grad_x, first * image_size * int64_t{sizeof(T)}));
    if (a.grad_x) queue.clear(a.grad_x, count * image_size * int64_t{sizeof(Sum<T>)});
    a.grad_offset = mine(t.grad_offset, 2 * mask_bytes(first));
    a.grad_mask = mine(t.grad_mask, mask_bytes(first));
    a.shares = plan.shares;
    a.groups = static_cast<Index>(p.groups);
    a.group_outputs = static_cast<Index>(plan.outputs.padded);
    a.unit_channels = static_cast<Index>(plan.chunk.unit_channels);
    a.unit_groups = static_cast<Index>(plan.chunk.unit_groups);
    for (int64_t image = 0; image < count; image += plan.chunk.images) {
      const int64_t images = std::min(plan.chunk.images, count - image);
      for (int64_t group = 0; group < p.deformable_groups; group += plan.chunk.groups) {
        const int64_t groups = std::min(plan.chunk.groups, p.deformable_groups - group);
        for (int64_t channel = 0; channel < geometry.deformable_channels;
             channel += plan.chunk.channels) {
          const int64_t channels =
              std::min(plan.chunk.channels, geometry.deformable_channels - channel);
          a.chunk = {static_cast<Index>(image),   static_cast<Index>(images),
                     static_cast<Index>(group),   static_cast<Index>(groups),
                     static_cast<Index>(channel), static_cast<Index>(channels)};
          a.group_units = static_cast<Index>(ceil_div(channels, plan.chunk.unit_channels));
          a.units = static_cast<Index>(ceil_div(groups, plan.chunk.unit_groups)) * a.group_units;
          a.accumulate = channel > 0;
          Bins<T, Index> bins;
          if (plan.gathers) {
            bins = plan.bins.bins(p, geometry, inputs, image, images, group, groups);
            if (channel == 0) plan.bins.fill(queue, bins);
          }
          column_gradients(a);
          if (plan.gathers) gather(a.chunk, bins);
        }
      }
      if (plan.shares) {
        const int64_t size = images * p.deformable_groups * p.taps() * p.out_pixels();
        queue.run<false>(sum_units_kernel<T>, elementwise_blocks(size), kElementwiseThreads, 0,
                         static_cast<const Sum<T>*>(plan.shares), plan.group_units, size,
                         p.out_pixels(), inputs.offset_is_float,
                         mine(t.grad_offset, 2 * mask_bytes(first + image)),
                         mine(t.grad_mask, mask_bytes(first + image)));
      }
    }
    if (plan.grad_x) {
      unpack(queue, Relayout{plan.inputs, count, p.in_pixels(), p.channels_last}, 1, plan.grad_x,
             static_cast<T*>(t.grad_x) + first * p.channels * p.in_pixels());
    }
  }

 private:
  template <typename Tiles, typename Run>
  void run_tile(Width width, const Run& run) {
    if constexpr (sizeof(Index) == 8) {
      run(static_cast<typename Tiles::Medium*>(nullptr));
    } else {
      with_tile<Tiles>(width, false, run);
    }
  }

  void column_gradients(DataArguments<T, Index> a) {
    run_tile<typename BackwardTiles<T>::Data>(plan.chunk.width, [&](auto* tile) {
      using Tile = std::remove_pointer_t<decltype(tile)>;
      a.items = static_cast<Index>(ceil_div(a.chunk.images * p.out_pixels(), Tile::kRows) *
                                   a.units * p.taps());
      const int64_t blocks = std::min<int64_t>(a.items, int64_t{processors()} * Tile::kMinBlocks);
      queue.run<true>(backward_data_kernel<T, Index, Tile>, blocks, Tile::kThreads,
                      DataTile<T, Tile>::template shared_bytes<Index>(a.unit_groups), a);
    });
  }

  void gather(const Chunk<Index>& chunk, const Bins<T, Index>& bins) {
    GatherArguments<T, Index> a;
    a.bins = bins;
    a.chunk = chunk;
    a.relayout = {plan.inputs, chunk.images, p.in_pixels(), p.channels_last};
    a.columns = plan.columns;
    a.grad_x = static_cast<T*>(t.grad_x) + (first + chunk.first_image) * p.channels * p.in_pixels();
    const int64_t channels = int64_t{chunk.groups} * chunk.channels;
    const int64_t tiles =
        ceil_div(a.relayout.rows(), Relayout::kRows) * ceil_div(channels, Relayout::kChannels<T>);
    queue.run<true>(gather_kernel<T, Index>, tiles, a.kThreads, RelayoutTile<T>::kBytes, a);
  }
};

template <typename T>
struct Backward {
  static size_t workspace(const Problem& p, const BackwardTensors& t, int flags) {
    return Plan<T>(p, t, nullptr, flags).bytes;
  }

  static int run(const Problem& p, const BackwardTensors& t, void* workspace, void* stream,
                 int flags) {
    const Plan<T> plan(p, t, workspace, flags);
    Queue queue(stream);
    if (plan.gathers && !bins_hold(p)) return cudaErrorInvalidValue;
    if (p.batch == 0) {
      const int64_t weights = p.out_channels * p.group_channels() * p.taps();
      if (t.grad_weight) queue.clear(t.grad_weight, weights * int64_t{sizeof(T)});
      if (t.grad_bias) queue.clear(t.grad_bias, p.out_channels * int64_t{sizeof(T)});
      return queue.error();
    }
    if (plan.data) {
      pack_backward_weight(queue, plan.weight_layout, static_cast<const T*>(t.weight), plan.weight);
    }
    for (int64_t first = 0; first < p.batch && (plan.data || t.grad_weight);
         first += plan.batches.images) {
      const int64_t images = std::min(plan.batches.images, p.batch - first);
      if (plan.batches.wide) {
        run_images<int64_t>(queue, p, t, plan, first, images);
      } else {
        run_images<int32_t>(queue, p, t, plan, first, images);
      }
    }
    if (t.grad_bias) bias_gradient(queue, p, t, plan);
    return queue.error();
  }

 private:
  template <typename Index>
  static void run_images(Queue& queue, const Problem& p, const BackwardTensors& t,
                         const Plan<T>& plan, int64_t first, int64_t count) {
    Images<T, Index> images(queue, p, t, plan, first, count);
    if (t.grad_weight) images.weight_gradient();
    if (plan.grad_weight && first + count == p.batch) {
      images.write_weight_gradient(1, plan.grad_weight);
    }
    if (plan.data) images.data_gradients();
  }

  static void bias_gradient(Queue& queue, const Problem& p, const BackwardTensors& t,
                            const Plan<T>& plan) {
    if (p.channels_last) {
      sum_pixels<true>(queue, t, plan);
    } else {
      sum_pixels<false>(queue, t, plan);
    }
    queue.run<true>(sum_bias_kernel<T>, ceil_div(p.out_channels * 32, BiasLayout::kThreads),
                    BiasLayout::kThreads, 0, plan.bias_layout,
                    static_cast<const Sum<T>*>(plan.bias_partial), static_cast<T*>(t.grad_bias));
  }
  template <bool kChannelsLast>
  static void sum_pixels(Queue& queue, const BackwardTensors& t, const Plan<T>& plan) {
    constexpr int kOwned = BiasLayout::kOwned<T, kChannelsLast>;
    const BiasLayout& b = plan.bias_layout;
    const int64_t tiles = ceil_div(b.channels, BiasLayout::kLanes<kChannelsLast> * kOwned);
    queue.run<true>(backward_bias_kernel<T, kChannelsLast>, tiles * b.splits, BiasLayout::kThreads,
                    BiasLayout::kThreads * kOwned * sizeof(Sum<T>), b,
                    static_cast<const T*>(t.grad_out), plan.bias_partial);
  }
};

}  // namespace
}  // namespace cuda
}  // namespace dcn

namespace {

// What is left to Backward where the direct kernels compute the rest.
dcn::BackwardTensors only_bias(const dcn::BackwardTensors& t) {
  return {t.x,     t.offset, t.mask,  t.weight, t.grad_out,
          nullptr, nullptr,  nullptr, nullptr,  t.grad_bias};
}

}  // namespace

extern "C" size_t dcn_cuda_backward_workspace(const dcn::Problem* problem,
                                              const dcn::BackwardTensors* tensors, int flags) {
  const bool direct = dcn::cuda::direct_applies(*problem, flags);
  const dcn::BackwardTensors rest = direct ? only_bias(*tensors) : *tensors;
  const size_t bytes = direct ? dcn::cuda::direct_backward_workspace(*problem, *tensors) : 0;
  return std::max(bytes, dcn::cuda::with_element_type(*problem, flags, [&](auto element) {
                    return dcn::cuda::Backward<decltype(element)>::workspace(*problem, rest, flags);
                  }));
}

extern "C" int dcn_cuda_backward(const dcn::Problem* problem, const dcn::BackwardTensors* tensors,
                                 void* workspace, void* stream, int flags) {
  if (dcn::cuda::is_for_cpus(*problem)) return cudaErrorInvalidValue;
  const bool direct = dcn::cuda::direct_applies(*problem, flags);
  const dcn::BackwardTensors rest = direct ? only_bias(*tensors) : *tensors;
  if (direct) {
    const int error = dcn::cuda::direct_backward(*problem, *tensors, workspace, stream);
    if (error) return error;
  }
  return dcn::cuda::with_element_type(*problem, flags, [&](auto element) {
    return dcn::cuda::Backward<decltype(element)>::run(*problem, rest, workspace, stream, flags);
  });
}

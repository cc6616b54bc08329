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

constexpr int64_t kPartialBudget = 20 * kMiB;  // for partial weight gradients
constexpr int64_t kColumnBudget = 10 * kMiB;   // for column gradients in deterministic mode
constexpr int64_t kBiasSplits = 256;           // ranges of pixels at most

// Data: output pixels x channels. Weight: output channels x elements of the reduction. Narrow is
// for few channels per (deformable) group.
template <typename T>
struct BackwardTiles {
  struct Data {
    using Wide = TensorProduct<T, 2, 4, 2, 4, 2>;    // 64 x 128
    using Medium = TensorProduct<T, 2, 2, 2, 4, 3>;  // 64 x 64
    using Narrow = TensorProduct<T, 4, 1, 2, 2, 4>;  // 128 x 16
  };
  struct Weight {
    using Wide = TensorProduct<T, 4, 4, 4, 4, 1>;    // 256 x 128
    using Medium = TensorProduct<T, 2, 2, 2, 4, 3>;  // 64 x 64
    using Narrow = TensorProduct<T, 1, 4, 1, 4, 3>;  // 16 x 128
  };
};
template <>
struct BackwardTiles<double> {
  struct Data {
    using Wide = ScalarProduct<double, 16, 8, 4, 4, false, 2>;  // 64 x 32
    using Medium = Wide;
    using Narrow = ScalarProduct<double, 32, 4, 4, 4, false, 3>;  // 128 x 16
  };
  struct Weight {
    using Wide = ScalarProduct<double, 16, 8, 4, 4, true, 3>;  // 64 x 32
    using Medium = Wide;
    using Narrow = ScalarProduct<double, 8, 16, 2, 4, true, 2>;  // 16 x 64
  };
};

enum class Width { kWide, kMedium, kNarrow };

template <typename T>
Width data_width(const Segments& inputs, const Problem& p) {
  using Tiles = typename BackwardTiles<T>::Data;
  const int64_t channels =
      inputs.packed_channels() / std::max(p.groups, p.deformable_groups);  // at a time
  return channels <= 2 * Tiles::Narrow::kColumns ? Width::kNarrow
         : channels <= Tiles::Medium::kColumns   ? Width::kMedium
                                                 : Width::kWide;
}
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

template <typename T>
struct Plan {
  using S = Sum<T>;

  Segments inputs, outputs;
  WeightLayout weight_layout;
  BiasLayout bias_layout;
  Batches batches;
  bool data, deterministic, round;
  int64_t splits, cells, column_pixels;
  T* weight;
  T* x;         // null where the caller's is packed already
  T* grad_out;  // likewise
  S* grad_x;    // null where the caller's is packed and of type S already
  S* partial;
  S* bias_partial;
  S* columns;
  int* counts;  // counts, ends and the length of lists, in one piece
  int* lists;
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
    deterministic = t.grad_x && flags & kDeterministic;
    round = std::is_same<T, TensorFloat32>::value;
    const bool products = data || t.grad_weight;

    const bool x_packed = p.channels_last && inputs.size == inputs.padded;
    const bool y_packed = p.channels_last && outputs.size == outputs.padded && !round;
    const int64_t image = p.in_pixels() * inputs.packed_channels();
    const int64_t x_size = products && !(x_packed && aligned(t.x)) ? image : 0;
    const int64_t y_size = products && !(y_packed && aligned(t.grad_out))
                               ? p.out_pixels() * outputs.packed_channels()
                               : 0;
    const bool own_grad_x = t.grad_x && !(x_packed && aligned(t.grad_x) && sizeof(T) == sizeof(S));
    const int64_t grad_x_size = own_grad_x ? image : 0;
    batches = split_batch(p, image_elements(p, inputs, outputs),
                          (x_size + y_size) * static_cast<int64_t>(sizeof(T)) +
                              grad_x_size * static_cast<int64_t>(sizeof(S)),
                          flags);

    splits = 1;
    if (t.grad_weight) {
      with_tile<typename BackwardTiles<T>::Weight>(
          weight_width<T>(p, inputs.padded), batches.wide, [&](auto* tile) {
            using Tile = std::remove_pointer_t<decltype(tile)>;
            const int64_t tiles =
                p.groups * ceil_div(p.group_outputs(), Tile::kRows) *
                ceil_div(p.taps() * inputs.packed_channels() / p.groups, Tile::kColumns);
            splits = fewest_slices(
                tiles, int64_t{processors()} * Tile::kMinBlocks,
                ceil_div(batches.images * p.out_pixels(), Slice<T>::kDepth),
                kPartialBudget / (weight_layout.forward_size() * static_cast<int64_t>(sizeof(S))));
          });
    }
    cells = p.deformable_groups * (p.height + 1) * (p.width + 1);
    column_pixels =
        kColumnBudget / (p.taps() * inputs.packed_channels() * static_cast<int64_t>(sizeof(S)));
    column_pixels = std::min(std::max<int64_t>(column_pixels, 64), p.out_pixels());

    Arena arena(workspace);
    weight = arena.take<T>(data ? weight_layout.backward_size() : 0);
    x = arena.take<T>(x_size * batches.images);
    grad_out = arena.take<T>(y_size * batches.images);
    grad_x = arena.take<S>(grad_x_size * batches.images);
    partial = arena.take<S>(t.grad_weight ? splits * weight_layout.forward_size() : 0);
    bias_partial = arena.take<S>(t.grad_bias ? bias_layout.splits * p.out_channels : 0);
    const int64_t entries = deterministic ? column_pixels * p.taps() : 0;
    columns = arena.take<S>(entries * inputs.packed_channels());
    lists = arena.take<int>(entries * p.deformable_groups);
    counts = arena.take<int>(deterministic ? 2 * cells + 1 : 0);
    bytes = arena.used();
    if (x_size == 0) x = nullptr;
    if (y_size == 0) grad_out = nullptr;
    if (!own_grad_x) grad_x = nullptr;
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
    inputs = {x, advance_bytes(t.offset, 2 * mask_bytes()), advance_bytes(t.mask, mask_bytes()),
              p.offset_dtype == DataType::kFloat32};
  }

  // From the start of mask to that of these images' part.
  int64_t mask_bytes() const {
    return first * p.deformable_groups * p.taps() * p.out_pixels() * offset_size<T>(p);
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
    a.accumulate = first > 0;
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
  }

  void data_gradients() {
    DataArguments<T, Index> a;
    a.geometry = geometry;
    a.inputs = inputs;
    a.grad_out = grad_out;
    a.weight = plan.weight;
    const int64_t image = p.in_pixels() * plan.inputs.packed_channels();
    a.grad_x = plan.grad_x ? plan.grad_x
                           : reinterpret_cast<Sum<T>*>(
                                 mine(t.grad_x, first * image * static_cast<int64_t>(sizeof(T))));
    a.grad_offset = mine(t.grad_offset, 2 * mask_bytes());
    a.grad_mask = mine(t.grad_mask, mask_bytes());
    a.columns = plan.deterministic ? plan.columns : nullptr;
    a.groups = static_cast<Index>(p.groups);
    a.group_outputs = static_cast<Index>(plan.outputs.padded);
    if (a.grad_x) queue.clear(a.grad_x, count * image * static_cast<int64_t>(sizeof(Sum<T>)));
    if (!plan.deterministic) {
      pixel_range(a, 0, geometry.pixels);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t end = (i + 1) * p.out_pixels();
        for (int64_t at = i * p.out_pixels(); at < end; at += plan.column_pixels) {
          pixel_range(a, at, std::min(at + plan.column_pixels, end));
          gather(a);
        }
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

  void pixel_range(DataArguments<T, Index>& a, int64_t first_pixel, int64_t end_pixel) {
    a.first_pixel = static_cast<Index>(first_pixel);
    a.end_pixel = static_cast<Index>(end_pixel);
    run_tile<typename BackwardTiles<T>::Data>(data_width<T>(plan.inputs, p), [&](auto* tile) {
      using Tile = std::remove_pointer_t<decltype(tile)>;
      const int64_t tiles =
          ceil_div(end_pixel - first_pixel, Tile::kRows) * p.deformable_groups * p.taps();
      queue.run<true>(backward_data_kernel<T, Index, Tile>, tiles, Tile::kThreads,
                      DataTile<T, Tile>::template shared_bytes<Index>(), a);
    });
  }

  void gather(const DataArguments<T, Index>& a) {
    GatherArguments<T, Index> b;
    b.geometry = geometry;
    b.inputs = inputs;
    b.columns = a.columns;
    b.grad_x = a.grad_x;
    b.counts = plan.counts;
    b.ends = plan.counts + plan.cells;
    b.used = plan.counts + 2 * plan.cells;
    b.lists = plan.lists;
    b.first_pixel = a.first_pixel;
    b.end_pixel = a.end_pixel;
    const int64_t samples = (a.end_pixel - a.first_pixel) * p.taps() * p.deformable_groups;
    const int64_t vectors = p.in_pixels() * geometry.channels / Vector<Sum<T>>::kSize;
    constexpr int kThreads = GatherArguments<T, Index>::kThreads;
    queue.clear(plan.counts, (2 * plan.cells + 1) * static_cast<int64_t>(sizeof(int)));
    queue.run<false>(list_cells_kernel<T, Index, true>, elementwise_blocks(samples), kThreads, 0,
                     b);
    queue.run<false>(place_lists_kernel<T, Index>, elementwise_blocks(plan.cells), kThreads, 0, b,
                     plan.cells);
    queue.run<false>(list_cells_kernel<T, Index, false>, elementwise_blocks(samples), kThreads, 0,
                     b);
    queue.run<false>(sort_lists_kernel<T, Index>, elementwise_blocks(plan.cells), kThreads, 0, b,
                     plan.cells);
    queue.run<false>(gather_kernel<T, Index>, elementwise_blocks(vectors), kThreads, 0, b);
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
    if (t.grad_weight) {
      unpack(queue, plan.weight_layout.forward(), plan.splits, plan.partial,
             static_cast<T*>(t.grad_weight));
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

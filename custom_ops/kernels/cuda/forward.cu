// The forward launcher: layout, choice of tile and of parts of the reduction, images at a time.
#include <limits>

#include "direct.h"
#include "forward.cuh"
#include "forward_sm90.cuh"
#include "host.cuh"

namespace dcn {
namespace cuda {
namespace {

constexpr int64_t kPartialBudget = 16 * kMiB;  // for sums of parts of the reduction

// Microseconds that a slice of the reduction takes on an H200, by the rows of a tile: for a block
// that is alone on its processor, and for each block beside it.
struct SliceTime {
  double alone, alone_row, beside, beside_row;
};

// Block tiles, output channels x pixels, from the one that samples least often to the one that
// fills the machine soonest; Narrow is for grouped convolutions.
template <typename T>
struct ForwardTiles {
  static constexpr SliceTime kTime = sizeof(T) == 2 ? SliceTime{0.50, 0.0026, 0.11, 0.0021}
                                     : std::is_same<T, float>::value
                                         ? SliceTime{0.50, 0.0048, 0.10, 0.0045}
                                         : SliceTime{0.42, 0.0022, 0.05, 0.0042};
  // The parts of float32 operands take registers.
  static constexpr int kFewer = std::is_same<T, float>::value ? 1 : 0;
  using Wide = TensorProduct<T, 4, 2, 4, 4, 2 - kFewer>;    // 256 x 64
  using Medium = TensorProduct<T, 2, 2, 4, 4, 3 - kFewer>;  // 128 x 64
  using Small = TensorProduct<T, 2, 2, 2, 4, 3>;            // 64 x 64
  using Narrow = TensorProduct<T, 1, 4, 1, 2, 4>;           // 16 x 64
};
template <>
struct ForwardTiles<double> {
  static constexpr SliceTime kTime = {0.60, 0.0058, 0.15, 0.0080};
  using Wide = ScalarProduct<double, 16, 8, 4, 8, false, 2>;  // 64 x 64
  using Medium = Wide;
  using Small = Wide;
  using Narrow = ScalarProduct<double, 8, 16, 2, 4, false, 3>;  // 16 x 64
};

enum class TileSize { kWide, kMedium, kSmall, kNarrow };

// Calls run(Tile*) with the tile type of that size.
template <typename T, typename Run>
void with_tile(TileSize size, const Run& run) {
  using Tiles = ForwardTiles<T>;
  switch (size) {
    case TileSize::kWide:
      return run(static_cast<typename Tiles::Wide*>(nullptr));
    case TileSize::kMedium:
      return run(static_cast<typename Tiles::Medium*>(nullptr));
    case TileSize::kSmall:
      return run(static_cast<typename Tiles::Small*>(nullptr));
    default:
      return run(static_cast<typename Tiles::Narrow*>(nullptr));
  }
}

struct Choice {
  TileSize tile;
  int64_t splits;  // parts of the reduction
};

// The choice that takes the least time by a model: blocks run in waves, and in a wave the
// processor with most blocks takes longest.
template <typename T>
Choice choose(const Problem& p, const Segments& inputs, const Segments& outputs, int64_t images) {
  constexpr int64_t kMostSplits = 16, kFewestSlices = 4;
  constexpr double kWaveStart = 3, kSumStart = 5, kSumBytes = 2e6;  // us, us, bytes per us
  constexpr double kPlanAlone = 1, kPlanBeside = 0.35;              // us per new sampling plan
  constexpr SliceTime kTime = ForwardTiles<T>::kTime;
  const int64_t pixels = images * p.out_pixels(), units = processors();
  const int64_t slices = ceil_div(p.taps() * inputs.packed_channels() / p.groups, Slice<T>::kDepth);
  const int64_t part_bytes =
      pixels * outputs.packed_channels() * static_cast<int64_t>(sizeof(Sum<T>));
  const double plans = std::min(1.0, static_cast<double>(Slice<T>::kDepth) / inputs.padded);
  const size_t shared = shared_limit();

  Choice best = {TileSize::kSmall, 1};
  double least = std::numeric_limits<double>::infinity();
  for (TileSize size : {TileSize::kWide, TileSize::kMedium, TileSize::kSmall, TileSize::kNarrow}) {
    with_tile<T>(size, [&](auto* tile) {
      using Tile = std::remove_pointer_t<decltype(tile)>;
      if (forward_shared_bytes<T, int32_t, Tile>() > shared) return;
      const int64_t tiles =
          ceil_div(p.group_outputs(), Tile::kRows) * p.groups * ceil_div(pixels, Tile::kColumns);
      const double alone = kTime.alone + kTime.alone_row * Tile::kRows + kPlanAlone * plans;
      const double beside = kTime.beside + kTime.beside_row * Tile::kRows + kPlanBeside * plans;
      for (int64_t splits = 1; splits <= kMostSplits; ++splits) {
        const int64_t part = ceil_div(slices, splits);
        if (splits > 1 && (part < kFewestSlices || splits * part_bytes > kPartialBudget)) break;
        const auto wave = [&](int64_t blocks) {  // so many on a processor
          return blocks > 0 ? kWaveStart + part * (alone + (blocks - 1) * beside) : 0;
        };
        const int64_t blocks = tiles * splits, slots = units * Tile::kMinBlocks;
        double time =
            blocks / slots * wave(Tile::kMinBlocks) + wave(ceil_div(blocks % slots, units));
        if (splits > 1) time += kSumStart + splits * part_bytes / kSumBytes;
        if (time < least) {
          least = time;
          best = {size, splits};
        }
      }
    });
  }
  return best;
}

template <typename T>
constexpr bool kOnTensorCores = !std::is_same<Sum<T>, T>::value;

// From so many output channels of a group on the Hopper kernel is faster; half types fill 64 of
// them sooner with two blocks on a processor.
template <typename T>
constexpr int64_t kHopperOutputs = sizeof(T) == 2 ? 65 : 32;

// Calls run(Tile{}) with the Hopper kernel's tile for so many output channels of a group.
template <typename T, typename Run>
auto with_hopper_tile(int64_t outputs, const Run& run) {
  if (outputs > 128) return run(HopperTile<T, 256, 2>{});
  if constexpr (kHopperOutputs<T> <= 64) {
    if (outputs <= 64) return run(HopperTile<T, 64, 3>{});
  }
  return run(HopperTile<T, 128, 2>{});
}

// Whether the Hopper kernel computes this, and how it divides the work.
struct HopperPlan {
  bool used = false;
  StagedWeight weight;
  int chunk_groups;  // deformable groups that the channels of a chunk can belong to
  int64_t tile_pixels, splits, split_steps;

  // May put up to `most` images into a launch.
  template <typename T>
  void choose(const Problem& p, const WeightLayout& layout, const Segments& outputs, int64_t most,
              Batches& batches) {
    if constexpr (kOnTensorCores<T>) {
      constexpr int64_t kChunk = StagedWeight::kRowBytes / sizeof(T);
      const int64_t channels = layout.inputs.packed_channels();
      // Below, most of a tile would be padding.
      if (batches.wide || channels < kChunk / 2 || p.group_outputs() < kHopperOutputs<T> ||
          !runs_hopper<T>()) {
        return;
      }
      const int64_t deformable_channels = channels * p.groups / p.deformable_groups;
      const bool whole = channels % kChunk == 0 || p.groups == 1;
      chunk_groups = static_cast<int>(
          whole && deformable_channels % kChunk == 0 ? 1
          : whole && kChunk % deformable_channels == 0
              ? kChunk / deformable_channels
              : std::min(p.deformable_groups, (kChunk - 2) / deformable_channels + 2));
      if (chunk_groups > HopperTile<T, 128, 2>::kPlaces) return;
      used = true;
      with_hopper_tile<T>(p.group_outputs(), [&](auto tile) {
        const int block_taps = tile.kPlaces / chunk_groups;
        weight = {
            layout,
            {static_cast<int>(p.taps()), block_taps, static_cast<int>(ceil_div(channels, kChunk))},
            static_cast<int>(ceil_div(p.group_outputs(), tile.kOutputs)),
            tile.kOutputs};
        tile_pixels = tile.kPixels;
      });
      const auto tiles = [&](int64_t images) {
        return ceil_div(images * p.out_pixels(), tile_pixels) * weight.row_tiles * p.groups;
      };
      const int64_t steps = weight.steps.count(), units = processors();
      const int64_t bytes = 4 * batches.images * p.out_pixels() * outputs.packed_channels();
      splits = std::min({units / tiles(batches.images), steps / kMinSteps, kPartialBudget / bytes});
      splits = std::max<int64_t>(splits, 1);
      split_steps = ceil_div(steps, splits);
      splits = ceil_div(steps, split_steps);
      if (splits > 1) return;
      // As few waves of blocks as can be.
      int64_t fewest = std::numeric_limits<int64_t>::max();
      for (int64_t n = most; n > std::max(most / 2, most - kMostTried); --n) {
        const int64_t waves =
            p.batch / n * ceil_div(tiles(n), units) + ceil_div(tiles(p.batch % n), units);
        if (waves < fewest) {
          fewest = waves;
          batches.images = n;
        }
      }
    }
  }

 private:
  static constexpr int64_t kMinSteps = 4, kMostTried = 64;

  template <typename T>
  static bool runs_hopper() {
    return has_code_for_hopper(forward_hopper_kernel<T, int32_t, HopperTile<T, 256, 2>>);
  }
};

template <typename T>
struct Plan {
  Segments inputs, outputs;
  WeightLayout weight_layout;
  Batches batches;
  HopperPlan hopper;
  Choice choice;   // where the Hopper kernel is not used
  int64_t splits;  // parts of the reduction
  T* weight;
  T* x;             // null where the caller's x is packed already
  Sum<T>* partial;  // null where the reduction is not split
  size_t bytes;

  Plan(const Problem& p, const ForwardTensors& t, void* workspace, int flags)
      : inputs(input_segments(p, Vector<T>::kSize)), outputs(output_segments(p, Vector<T>::kSize)) {
    weight_layout = {p.groups,
                     p.group_outputs(),
                     p.taps(),
                     {inputs.count / p.groups, inputs.size, inputs.padded},
                     {1, outputs.size, outputs.padded}};
    const bool packed = p.channels_last && inputs.size == inputs.padded && aligned(t.x);
    const int64_t image = packed ? 0 : p.in_pixels() * inputs.packed_channels();
    const int64_t elements = image_elements(p, inputs, outputs);
    const int64_t image_bytes = image * static_cast<int64_t>(sizeof(T));
    const int64_t budget =
        kWorkspaceBudget - weight_layout.forward_size() * static_cast<int64_t>(sizeof(T));
    batches = split_batch(p, elements, image_bytes, flags, budget - kPartialBudget);
    hopper.choose<T>(p, weight_layout, outputs, most_images(p, elements, image_bytes, budget),
                     batches);
    choice = {TileSize::kSmall, 1};
    if (!batches.wide && !hopper.used) choice = choose<T>(p, inputs, outputs, batches.images);
    splits = hopper.used ? hopper.splits : choice.splits;
    const int64_t sums = splits * batches.images * p.out_pixels() * outputs.packed_channels();
    Arena arena(workspace);
    weight = arena.take<T>(hopper.used ? hopper.weight.vectors() * Vector<T>::kSize
                                       : weight_layout.forward_size());
    x = arena.take<T>(image * batches.images);
    partial = arena.take<Sum<T>>(splits > 1 ? sums : 0);
    if (packed) x = nullptr;
    if (splits == 1) partial = nullptr;
    bytes = arena.used();
  }
};

template <typename Product, typename T, typename Index>
void run_tiles(Queue& queue, ForwardArguments<T, Index>& a) {
  a.row_tiles = static_cast<Index>(ceil_div(a.group_outputs, Product::kRows));
  const int64_t tiles =
      int64_t{a.row_tiles} * a.groups * a.splits * ceil_div(a.geometry.pixels, Product::kColumns);
  queue.run<true>(forward_kernel<T, Index, Product>, tiles, Product::kThreads,
                  forward_shared_bytes<T, Index, Product>(), a);
}

// What the images at hand need: the weight once, x where it is not packed, which is returned.
template <typename T>
const T* pack_operands(Queue& queue, const Problem& p, const ForwardTensors& t, const Plan<T>& plan,
                       int64_t first, int64_t images) {
  const T* const x = advance<T>(t.x, first * p.channels * p.in_pixels());
  const T* const weight = static_cast<const T*>(t.weight);
  if constexpr (kOnTensorCores<T>) {
    if (plan.hopper.used) {
      const StagedWeight& staged = plan.hopper.weight;
      const Relayout r = {plan.inputs, images, p.in_pixels(), p.channels_last};
      const int64_t blocks = first == 0 ? ceil_div(staged.threads(), Relayout::kThreads) : 0;
      queue.run<true>(pack_operands_kernel<T>, blocks + (plan.x ? r.tiles<T>() : 0),
                      Relayout::kThreads, RelayoutTile<T>::kBytes, staged, static_cast<int>(blocks),
                      weight, plan.weight, r, x, plan.x);
      return plan.x ? plan.x : x;
    }
  }
  if (first == 0) pack_forward_weight(queue, plan.weight_layout, weight, plan.weight);
  if (!plan.x) return x;
  pack_images(queue, plan.inputs, p.channels_last, images, p.in_pixels(), false, x, plan.x);
  return plan.x;
}

template <typename T>
void run_hopper(Queue& queue, const Problem& p, const Plan<T>& plan,
                const ForwardArguments<T, int32_t>& forward) {
  if constexpr (kOnTensorCores<T>) {
    const HopperPlan& hopper = plan.hopper;
    HopperArguments<T, int32_t> a;
    a.forward = forward;
    a.forward.row_tiles = static_cast<int32_t>(hopper.weight.row_tiles);
    a.steps = hopper.weight.steps;
    a.split_steps = static_cast<int>(hopper.split_steps);
    a.chunk_groups = hopper.chunk_groups;
    a.inverse_groups = static_cast<int>(ceil_div(1 << 16, hopper.chunk_groups));
    with_hopper_tile<T>(p.group_outputs(), [&](auto tile) {
      using Tile = decltype(tile);
      const int64_t blocks = ceil_div(forward.geometry.pixels, Tile::kPixels) * plan.splits *
                             p.groups * hopper.weight.row_tiles;
      queue.run<true>(forward_hopper_kernel<T, int32_t, Tile>, blocks, Tile::kThreads,
                      Tile::kSharedBytes, a);
    });
  }
}

template <typename Index, typename T>
void run_images(Queue& queue, const Problem& p, const ForwardTensors& t, const Plan<T>& plan,
                int64_t first, int64_t images) {
  const T* const x = pack_operands(queue, p, t, plan, first, images);
  ForwardArguments<T, Index> a;
  a.geometry = geometry<Index>(p, plan.inputs, images);
  const int64_t offset_bytes =
      first * p.deformable_groups * p.taps() * p.out_pixels() * offset_size<T>(p);
  a.inputs = {x, advance_bytes(t.offset, 2 * offset_bytes), advance_bytes(t.mask, offset_bytes),
              p.offset_dtype == DataType::kFloat32};
  a.weight = plan.weight;
  a.bias = static_cast<const T*>(t.bias);
  a.out = static_cast<T*>(t.out) + first * p.out_channels * p.out_pixels();
  a.groups = static_cast<Index>(p.groups);
  a.group_outputs = static_cast<Index>(p.group_outputs());
  a.channels_last = p.channels_last;

  const int64_t reduction = p.taps() * plan.inputs.packed_channels() / p.groups;
  a.packed_outputs = static_cast<Index>(plan.outputs.padded);
  a.partial = plan.partial;
  a.splits = static_cast<Index>(plan.splits);
  a.split_depth = static_cast<Index>(round_up(ceil_div(reduction, plan.splits), Slice<T>::kDepth));

  if constexpr (sizeof(Index) == 8) {
    run_tiles<typename ForwardTiles<T>::Small>(queue, a);
  } else if (plan.hopper.used) {
    run_hopper(queue, p, plan, a);
  } else {
    with_tile<T>(plan.choice.tile,
                 [&](auto* tile) { run_tiles<std::remove_pointer_t<decltype(tile)>>(queue, a); });
  }
  if (plan.partial) {
    unpack(queue, Relayout{plan.outputs, images, p.out_pixels(), p.channels_last}, plan.splits,
           plan.partial, a.out, a.bias);
  }
}

template <typename T>
struct Forward {
  static size_t workspace(const Problem& p, const ForwardTensors& t, int flags) {
    return Plan<T>(p, t, nullptr, flags).bytes;
  }
  static int run(const Problem& p, const ForwardTensors& t, void* workspace, void* stream,
                 int flags) {
    const Plan<T> plan(p, t, workspace, flags);
    // An H200 takes 42 us for [1,256,64,64] in float16, and 48 where kernels start early.
    Queue queue(stream, !(plan.hopper.used && plan.splits > 1));
    if (p.batch == 0) return queue.error();
    for (int64_t first = 0; first < p.batch; first += plan.batches.images) {
      const int64_t images = std::min(plan.batches.images, p.batch - first);
      if (plan.batches.wide) {
        run_images<int64_t>(queue, p, t, plan, first, images);
      } else {
        run_images<int32_t>(queue, p, t, plan, first, images);
      }
    }
    return queue.error();
  }
};

}  // namespace
}  // namespace cuda
}  // namespace dcn

extern "C" size_t dcn_cuda_forward_workspace(const dcn::Problem* problem,
                                             const dcn::ForwardTensors* tensors, int flags) {
  if (dcn::cuda::direct_applies(*problem, flags)) {
    return dcn::cuda::direct_forward_workspace(*problem, *tensors);
  }
  return dcn::cuda::with_element_type(*problem, flags, [&](auto element) {
    return dcn::cuda::Forward<decltype(element)>::workspace(*problem, *tensors, flags);
  });
}

extern "C" int dcn_cuda_forward(const dcn::Problem* problem, const dcn::ForwardTensors* tensors,
                                void* workspace, void* stream, int flags) {
  if (dcn::cuda::is_for_cpus(*problem) || tensors->addend) return cudaErrorInvalidValue;
  if (dcn::cuda::direct_applies(*problem, flags)) {
    return dcn::cuda::direct_forward(*problem, *tensors, workspace, stream);
  }
  return dcn::cuda::with_element_type(*problem, flags, [&](auto element) {
    return dcn::cuda::Forward<decltype(element)>::run(*problem, *tensors, workspace, stream, flags);
  });
}

extern "C" void dcn_cuda_struct_bytes(size_t bytes[3]) {
  bytes[0] = sizeof(dcn::Problem);
  bytes[1] = sizeof(dcn::ForwardTensors);
  bytes[2] = sizeof(dcn::BackwardTensors);
}

extern "C" const char* dcn_cuda_error_name(int error) {
  return cudaGetErrorName(static_cast<cudaError_t>(error));
}

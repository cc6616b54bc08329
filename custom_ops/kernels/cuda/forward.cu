// The forward launcher: layout, choice of tile, images at a time.
#include "direct.h"
#include "forward.cuh"
#include "host.cuh"

namespace dcn {
namespace cuda {
namespace {

// Block tiles, output channels x pixels, from the one that samples least often to the one that
// fills the machine soonest; Narrow is for grouped convolutions.
template <typename T>
struct ForwardTiles {
  // The parts of float32 operands take registers.
  static constexpr int kFewer = std::is_same<T, float>::value ? 1 : 0;
  using Wide = TensorProduct<T, 4, 2, 4, 4, 2 - kFewer>;    // 256 x 64
  using Medium = TensorProduct<T, 2, 2, 4, 4, 3 - kFewer>;  // 128 x 64
  using Small = TensorProduct<T, 2, 2, 2, 4, 3>;            // 64 x 64
  using Narrow = TensorProduct<T, 1, 4, 1, 2, 4>;           // 16 x 64
};
template <>
struct ForwardTiles<double> {
  using Wide = ScalarProduct<double, 16, 8, 4, 8, false, 2>;  // 64 x 64
  using Medium = Wide;
  using Small = Wide;
  using Narrow = ScalarProduct<double, 8, 16, 2, 4, false, 3>;  // 16 x 64
};

template <typename T>
struct Plan {
  Segments inputs;
  WeightLayout weight_layout;
  Batches batches;
  T* weight;
  T* x;  // null where the caller's x is packed already
  size_t bytes;

  Plan(const Problem& p, const ForwardTensors& t, void* workspace, int flags)
      : inputs(input_segments(p, Vector<T>::kSize)) {
    const Segments outputs = output_segments(p, Vector<T>::kSize);
    weight_layout = {p.groups,
                     p.group_outputs(),
                     p.taps(),
                     {inputs.count / p.groups, inputs.size, inputs.padded},
                     {1, outputs.size, outputs.padded}};
    const bool packed = p.channels_last && inputs.size == inputs.padded && aligned(t.x);
    const int64_t image = packed ? 0 : p.in_pixels() * inputs.packed_channels();
    batches = split_batch(p, image_elements(p, inputs, outputs),
                          image * static_cast<int64_t>(sizeof(T)), flags);
    Arena arena(workspace);
    weight = arena.take<T>(weight_layout.forward_size());
    x = arena.take<T>(image * batches.images);
    if (packed) x = nullptr;
    bytes = arena.used();
  }
};

template <typename Product, typename T, typename Index>
void run_tiles(Queue& queue, ForwardArguments<T, Index>& a) {
  a.row_tiles = static_cast<Index>(ceil_div(a.group_outputs, Product::kRows));
  const int64_t tiles =
      int64_t{a.row_tiles} * a.groups * ceil_div(a.geometry.pixels, Product::kColumns);
  queue.run<true>(forward_kernel<T, Index, Product>, tiles, Product::kThreads,
                  forward_shared_bytes<T, Index, Product>(), a);
}

template <typename Index, typename T>
void run_images(Queue& queue, const Problem& p, const ForwardTensors& t, const Plan<T>& plan,
                int64_t first, int64_t images) {
  const T* x = advance<T>(t.x, first * p.channels * p.in_pixels());
  if (plan.x) {
    pack_images(queue, plan.inputs, p.channels_last, images, p.in_pixels(), false, x, plan.x);
    x = plan.x;
  }
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

  using Tiles = ForwardTiles<T>;
  if constexpr (sizeof(Index) == 8) {
    run_tiles<typename Tiles::Small>(queue, a);
  } else {
    // A tile must not be mostly padding, and there should be one for every processor.
    const auto suits = [&](int64_t rows, int64_t columns) {
      const int64_t row_tiles = ceil_div(p.group_outputs(), rows);
      return 4 * p.group_outputs() > 3 * (row_tiles - 1) * rows + rows &&
             row_tiles * p.groups * ceil_div(a.geometry.pixels, columns) >= processors();
    };
    if (p.group_outputs() <= 2 * Tiles::Narrow::kRows) {
      run_tiles<typename Tiles::Narrow>(queue, a);
    } else if (forward_shared_bytes<T, Index, typename Tiles::Wide>() <= shared_limit() &&
               suits(Tiles::Wide::kRows, Tiles::Wide::kColumns)) {
      run_tiles<typename Tiles::Wide>(queue, a);
    } else if (suits(Tiles::Medium::kRows, Tiles::Medium::kColumns)) {
      run_tiles<typename Tiles::Medium>(queue, a);
    } else {
      run_tiles<typename Tiles::Small>(queue, a);
    }
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
    Queue queue(stream);
    if (p.batch == 0) return queue.error();
    pack_forward_weight(queue, plan.weight_layout, static_cast<const T*>(t.weight), plan.weight);
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
  if (dcn::cuda::direct_applies(*problem, flags)) {
    return dcn::cuda::direct_forward(*problem, *tensors, workspace, stream);
  }
  return dcn::cuda::with_element_type(*problem, flags, [&](auto element) {
    return dcn::cuda::Forward<decltype(element)>::run(*problem, *tensors, workspace, stream, flags);
  });
}

extern "C" const char* dcn_cuda_error_name(int error) {
  return cudaGetErrorName(static_cast<cudaError_t>(error));
}

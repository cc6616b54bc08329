// The launchers for layers with few channels per group: when, layout, images at a time.
#include "direct.cuh"
#include "direct.h"
#include "direct_backward.cuh"
#include "direct_gather.cuh"
#include "host.cuh"

namespace dcn {
namespace cuda {
namespace {

constexpr int64_t kBudget = 60 * kMiB;        // unless a single image needs more
constexpr int64_t kImagesBudget = 40 * kMiB;  // of it for packed x and output gradients
constexpr int64_t kPartialBudget = 8 * kMiB;  // and for partial weight gradients

int64_t multiple(const Problem& p) { return p.group_outputs() / p.group_channels(); }

// Calls run(T{}); TF32 is for products of matrices.
template <typename Run>
auto with_direct_type(const Problem& p, const Run& run) {
  return with_element_type(p, 0, [&](auto element) {
    if constexpr (std::is_same<decltype(element), TensorFloat32>::value) {
      return run(float{});
    } else {
      return run(element);
    }
  });
}

// Calls run(integral_constant<int, channels of a group>).
template <typename Run>
void with_group(const Problem& p, const Run& run) {
  switch (p.group_channels()) {
    case 1:
      return run(std::integral_constant<int, 1>{});
    case 2:
      return run(std::integral_constant<int, 2>{});
    default:
      return run(std::integral_constant<int, 4>{});
  }
}

template <typename T>
struct Layout {
  Segments inputs, outputs;
  Relayout weight;
  bool x_packed, y_packed;  // NHWC is the packed layout already, but for the alignment

  explicit Layout(const Problem& p) {
    const int64_t size = p.deformable_channels(), padded = round_up(size, Vector<T>::kSize);
    inputs = {p.deformable_groups, size, padded};
    outputs = {p.deformable_groups, size * multiple(p), padded * multiple(p)};
    weight = {inputs, 1, multiple(p) * p.group_channels() * p.taps(), false};
    x_packed = y_packed = p.channels_last && size == padded;
  }
  int64_t weight_size() const { return weight.pixels * inputs.packed_channels(); }
  void pack_weight(Queue& queue, const void* plain, T* packed) const {
    pack(queue, weight, SameRows{}, false, static_cast<const T*>(plain), packed);
  }
};

template <typename T>
DirectTiling tiling(const Problem& p, const Layout<T>& layout, int64_t height, int64_t width,
                    int64_t first_group, int64_t groups, int tap_step) {
  DirectTiling t;
  t.height = static_cast<int>(height);
  t.width = static_cast<int>(width);
  t.column_bits = -1;
  for (const int b : {4, 3, 5, 2, 6, 1, 0}) {  // the first one with the fewest tiles
    const int64_t across = ceil_div(width, int64_t{1} << b);
    const int64_t tiles = across * ceil_div(height, DirectTiling::kPixels >> b);
    if (t.column_bits >= 0 && tiles >= t.image_tiles) continue;
    t.column_bits = b;
    t.across = static_cast<int>(across);
    t.image_tiles = static_cast<int>(tiles);
  }
  t.vectors = static_cast<int>(layout.inputs.padded / Vector<T>::kSize);
  t.group_bits = std::min(bits(t.vectors), DirectTiling::kLaneBits);
  t.lane_bits = std::min(t.group_bits + bits(groups), DirectTiling::kLaneBits);
  t.first_group = static_cast<int>(first_group);
  t.end_group = static_cast<int>(first_group + groups);
  const int64_t taps = DirectTiling::kPlans / DirectTiling::kPixels / t.local_groups();
  t.tap_step =
      static_cast<int>(std::min({std::max<int64_t>(taps, 1), p.taps(), int64_t{tap_step}}));
  return t;
}

template <typename T>
DirectTarget<T> target(const Problem& p, const Layout<T>& layout, T* data, int64_t channels) {
  const bool vectors =
      layout.x_packed && aligned(data) && channels == layout.inputs.packed_channels();
  return {data, p.channels_last, vectors, static_cast<int>(channels),
          static_cast<int>(layout.inputs.size)};
}

// The images at hand.
template <typename T>
struct Images {
  Geometry<int> geometry;
  Inputs<T> inputs;
  int64_t mask_bytes;  // from the start of mask to that of their part

  Images(Queue& queue, const Problem& p, const Layout<T>& layout, const void* x, const void* offset,
         const void* mask, T* packed, int64_t first, int64_t count)
      : geometry(dcn::cuda::geometry<int>(p, layout.inputs, count)),
        mask_bytes(first * p.deformable_groups * p.taps() * p.out_pixels() * offset_size<T>(p)) {
    const T* from = advance<T>(x, first * p.channels * p.in_pixels());
    if (packed) {
      pack_images(queue, layout.inputs, p.channels_last, count, p.in_pixels(), false, from, packed);
      from = packed;
    }
    inputs = {from, advance_bytes(offset, 2 * mask_bytes), advance_bytes(mask, mask_bytes),
              p.offset_dtype == DataType::kFloat32};
  }
};

// ------------------------------------------------------------------------------------ forward

template <typename T>
struct Forward {
  Layout<T> layout;
  int64_t images;  // at a time
  T* weight;
  T* x;  // null where the caller's is packed already
  size_t bytes;

  Forward(const Problem& p, const ForwardTensors& t, void* workspace) : layout(p) {
    const bool packed = layout.x_packed && aligned(t.x);
    const int64_t image = packed ? 0 : p.in_pixels() * layout.inputs.packed_channels();
    images = split_batch(p, image_elements(p, layout.inputs, layout.outputs),
                         image * static_cast<int64_t>(sizeof(T)), 0, kImagesBudget)
                 .images;
    Arena arena(workspace);
    weight = arena.take<T>(layout.weight_size());
    x = arena.take<T>(image * images);
    if (packed) x = nullptr;
    bytes = arena.used();
  }

  int run(const Problem& p, const ForwardTensors& t, void* stream) const {
    Queue queue(stream);
    if (p.batch > 0) layout.pack_weight(queue, t.weight, weight);
    for (int64_t first = 0; first < p.batch; first += images) {
      const int64_t count = std::min(images, p.batch - first);
      const Images<T> at(queue, p, layout, t.x, t.offset, t.mask, x, first, count);
      DirectForwardArguments<T> a;
      a.geometry = at.geometry;
      a.inputs = at.inputs;
      a.weight = weight;
      a.bias = static_cast<const T*>(t.bias);
      a.out = target(p, layout, static_cast<T*>(t.out) + first * p.out_channels * p.out_pixels(),
                     p.out_channels);
      a.tiling = tiling(p, layout, p.out_height, p.out_width, 0, p.deformable_groups,
                        DirectTiling::kPlans);
      a.multiple = static_cast<int>(multiple(p));
      // Plans are made once for all channels, if there are enough blocks then.
      const int64_t vector_blocks = a.tiling.vector_blocks();
      int64_t blocks = count * a.tiling.image_tiles * a.tiling.group_blocks() * a.multiple;
      int64_t pass = vector_blocks;
      while (pass > 1 && blocks * ceil_div(vector_blocks, pass) < 8 * processors()) pass /= 2;
      a.pass_blocks = static_cast<int>(pass);
      blocks *= ceil_div(vector_blocks, pass);
      with_group(p, [&](auto group) {
        if constexpr (group.value <= Vector<T>::kSize) {
          queue.run<true>(direct_forward_kernel<T, group.value>, blocks, DirectTiling::kThreads,
                          a.tiling.plans() * size_t{DirectPlans<T>::kBytes} + store_tile_bytes<T>(),
                          a);
        }
      });
    }
    return queue.error();
  }
};

// ----------------------------------------------------------------------------------- backward

// Calls run(integral_constant<int, channels of a group>, whether there are as many outputs).
template <typename T, typename Run>
void with_groups(const Problem& p, const Run& run) {
  with_group(p, [&](auto group) {
    if constexpr (group.value == 1) {
      if (multiple(p) > 1) return run(group, std::false_type{});
    }
    if constexpr (group.value <= Vector<T>::kSize) run(group, std::true_type{});
  });
}

template <typename T>
struct Backward {
  using S = Sum<T>;

  Layout<T> layout;
  int64_t images;  // at a time
  int64_t splits;  // of the pixels, for the weight gradient
  int64_t planes;  // at a time, see Bins
  T* weight;
  T* x;         // null where the caller's is packed already
  T* grad_out;  // likewise
  S* partial;
  BinMemory<T> bins;
  size_t bytes;

  Backward(const Problem& p, const BackwardTensors& t, void* workspace) : layout(p) {
    const bool pass = t.grad_offset || t.grad_mask || t.grad_weight;
    const bool any = pass || t.grad_x;
    const int64_t x_size = pass && !(layout.x_packed && aligned(t.x))
                               ? p.in_pixels() * layout.inputs.packed_channels()
                               : 0;
    const int64_t y_size = any && !(layout.y_packed && aligned(t.grad_out))
                               ? p.out_pixels() * layout.outputs.packed_channels()
                               : 0;
    images = split_batch(p, image_elements(p, layout.inputs, layout.outputs),
                         (x_size + y_size) * static_cast<int64_t>(sizeof(T)), 0, kImagesBudget)
                 .images;
    splits = 1;
    if (t.grad_weight) {
      const int64_t tiles = images * pass_tiling(p).image_tiles;
      const int64_t limit = std::max<int64_t>(
          kPartialBudget / (layout.weight_size() * static_cast<int64_t>(sizeof(S))), 1);
      splits = ceil_div(tiles, ceil_div(tiles, limit));
    }
    Arena arena(workspace);
    weight = arena.take<T>(any ? layout.weight_size() : 0);
    x = arena.take<T>(x_size * images);
    grad_out = arena.take<T>(y_size * images);
    partial = arena.take<S>(t.grad_weight ? splits * layout.weight_size() : 0);
    // What is left is for samples binned by cell: those of whole images, or of one in parts.
    planes = std::max<int64_t>((kBudget - arena.used()) / BinMemory<T>::plane_bytes(p), 1);
    planes = planes < p.deformable_groups
                 ? ceil_div(p.deformable_groups, ceil_div(p.deformable_groups, planes))
                 : std::min(planes / p.deformable_groups, images) * p.deformable_groups;
    bins.take(arena, p, t.grad_x ? planes : 0);
    bytes = arena.used();
    if (x_size == 0) x = nullptr;
    if (y_size == 0) grad_out = nullptr;
    if (!t.grad_weight) partial = nullptr;
  }

  // Of the pass over the samples: as many taps at a time as their weight gradients leave room for.
  DirectTiling pass_tiling(const Problem& p) const {
    const int64_t step = 9 / (p.group_channels() * multiple(p));
    return tiling(p, layout, p.out_height, p.out_width, 0, p.deformable_groups,
                  static_cast<int>(std::max<int64_t>(step, 1)));
  }

  int run(const Problem& p, const BackwardTensors& t, void* stream) const {
    Queue queue(stream);
    if (p.batch == 0) {
      const int64_t weights = p.out_channels * p.group_channels() * p.taps();
      if (t.grad_weight) queue.clear(t.grad_weight, weights * int64_t{sizeof(T)});
      return queue.error();
    }
    const bool pass = t.grad_offset || t.grad_mask || t.grad_weight;
    if (pass || t.grad_x) layout.pack_weight(queue, t.weight, weight);
    for (int64_t first = 0; first < p.batch && (pass || t.grad_x); first += images) {
      const int64_t count = std::min(images, p.batch - first);
      const Images<T> at(queue, p, layout, t.x, t.offset, t.mask, x, first, count);
      const T* above = advance<T>(t.grad_out, first * p.out_channels * p.out_pixels());
      if (grad_out) {
        pack_images(queue, layout.outputs, p.channels_last, count, p.out_pixels(), false, above,
                    grad_out);
        above = grad_out;
      }
      if (pass) pass_over(queue, p, t, at, above, first, count);
      if (t.grad_x) {
        T* const target = static_cast<T*>(t.grad_x) + first * p.channels * p.in_pixels();
        for (int64_t image = 0, step; image < count; image += step) {
          step = std::min(std::max<int64_t>(planes / p.deformable_groups, 1), count - image);
          for (int64_t group = 0; group < p.deformable_groups; group += planes) {
            const int64_t groups = std::min(planes, p.deformable_groups - group);
            gather(queue, p, at, above, target, image, step, group, groups);
          }
        }
      }
    }
    if (t.grad_weight) {
      queue.run<true>(sum_direct_weight_kernel<S>, ceil_div(layout.weight_size(), 32), 256,
                      256 * sizeof(S), layout.weight_size(), static_cast<int>(splits), partial);
      unpack(queue, layout.weight, 1, partial, static_cast<T*>(t.grad_weight));
    }
    return queue.error();
  }

 private:
  void pass_over(Queue& queue, const Problem& p, const BackwardTensors& t, const Images<T>& at,
                 const T* above, int64_t first, int64_t count) const {
    const auto mine = [](void* gradient, int64_t offset) {
      return gradient ? static_cast<char*>(gradient) + offset : nullptr;
    };
    DirectBackwardArguments<T> a;
    a.geometry = at.geometry;
    a.inputs = at.inputs;
    a.grad_out = above;
    a.weight = weight;
    a.partial = partial;
    a.grad_offset = mine(t.grad_offset, 2 * at.mask_bytes);
    a.grad_mask = mine(t.grad_mask, at.mask_bytes);
    a.tiling = pass_tiling(p);
    a.multiple = static_cast<int>(multiple(p));
    a.tiles = static_cast<int>(count) * a.tiling.image_tiles;
    a.split_tiles = partial ? static_cast<int>(ceil_div(a.tiles, splits)) : 1;
    a.accumulate = first > 0;
    const int64_t blocks = ceil_div(a.tiles, a.split_tiles) * a.tiling.group_blocks();
    with_groups<T>(p, [&](auto group, auto single) {
      queue.run<true>(direct_backward_kernel<T, group.value, single.value>, blocks,
                      DirectTiling::kThreads,
                      a.tiling.plans() * size_t{DirectPlans<T>::kBytes} +
                          DirectSums<T, group.value>::bytes(a.tiling, a.multiple),
                      a);
    });
  }

  // The gradient of x of some images and deformable groups.
  void gather(Queue& queue, const Problem& p, const Images<T>& at, const T* above, T* grad_x,
              int64_t first_image, int64_t count, int64_t first_group, int64_t groups) const {
    DirectGatherArguments<T> a;
    a.bins = bins.bins(p, at.geometry, at.inputs, first_image, count, first_group, groups);
    bins.fill(queue, a.bins);
    a.grad_out = above;
    a.weight = weight;
    a.grad_x = target(p, layout, grad_x, p.channels);
    a.tiling = tiling(p, layout, p.height, p.width, first_group, groups, 1);
    a.multiple = static_cast<int>(multiple(p));
    const int64_t blocks =
        count * a.tiling.image_tiles * a.tiling.group_blocks() * a.tiling.vector_blocks();
    with_groups<T>(p, [&](auto group, auto single) {
      queue.run<true>(direct_gather_kernel<T, group.value, single.value>, blocks,
                      DirectTiling::kThreads, store_tile_bytes<T>(), a);
    });
  }
};

}  // namespace

bool direct_applies(const Problem& p, int flags) {
  const int64_t group = p.group_channels(), outputs = p.group_outputs();
  const int64_t vector = with_direct_type(p, [](auto e) { return Vector<decltype(e)>::kSize; });
  const bool few = group == 1 ? outputs <= 4 : (group == 2 || group == 4) && outputs == group;
  if (!few || group > vector || p.deformable_channels() % group != 0) return false;
  const int64_t padded = round_up(p.deformable_channels(), vector);
  const Segments inputs = {p.deformable_groups, p.deformable_channels(), padded};
  const Segments out = {p.deformable_groups, padded * multiple(p), padded * multiple(p)};
  constexpr int64_t kLimit = (int64_t{1} << 31) - 1;
  return !split_batch(p, image_elements(p, inputs, out), 0, flags).wide &&
         p.taps() << bits(p.out_pixels()) <= kLimit;
}

size_t direct_forward_workspace(const Problem& p, const ForwardTensors& t) {
  return with_direct_type(
      p, [&](auto element) { return Forward<decltype(element)>(p, t, nullptr).bytes; });
}

int direct_forward(const Problem& p, const ForwardTensors& t, void* workspace, void* stream) {
  return with_direct_type(p, [&](auto element) {
    return Forward<decltype(element)>(p, t, workspace).run(p, t, stream);
  });
}

size_t direct_backward_workspace(const Problem& p, const BackwardTensors& t) {
  return with_direct_type(
      p, [&](auto element) { return Backward<decltype(element)>(p, t, nullptr).bytes; });
}

int direct_backward(const Problem& p, const BackwardTensors& t, void* workspace, void* stream) {
  return with_direct_type(p, [&](auto element) {
    return Backward<decltype(element)>(p, t, workspace).run(p, t, stream);
  });
}

}  // namespace cuda
}  // namespace dcn

// The backward pass of few channels per group, see direct-inl.h.
//
// Channels are cut into slabs. A task owns a slab of one image and walks its pixels in order: the
// gradient of a sample is made of a few weights and output gradients in registers, and gives those
// of x, of the coordinates and of the weight at once. Sums over slabs and images have a fixed
// order, so results do not depend on the number of threads.
#pragma once

#include "backward-inl.h"
#include "direct-inl.h"

namespace dcn::cpu::DCN_ISA {

constexpr int64_t kDirectTile = kPixelBlock;  // output pixels, at most

// The gradients that are wanted besides the bias's.
struct Wanted {
  bool x, coordinates, weight;

  bool any() const { return x || coordinates || weight; }
};

template <typename T>
struct DirectBackwardBuffers {
  using Product = VectorProduct<T>;
  using Pixel = T;

  static constexpr bool copies_x = true;

  const Problem& p;
  Slabs slabs;
  ChannelBlocks blocks;  // of x and its gradient
  DirectWeights weights;
  Wanted wanted;
  bool sums_partials;   // some deformable group's channels are in several slabs
  int64_t plans;        // taps that are planned at a time
  int64_t tile;         // output pixels
  int64_t images;       // at a time
  int64_t grad_stride;  // of a tile of the output's gradient
  int64_t shared_bytes, thread_bytes;
  T* x;                  // arranged in blocks
  T* grad_x;             // the same
  T* weight;             // see DirectWeights
  T* image_weights;      // their gradients from each image
  T* grad_weight;        // and from all
  double* image_biases;  // [image][m], the same of the bias
  double* grad_bias;
  T* partials;  // see partial_row()

  DirectBackwardBuffers(const Problem& p, const BackwardTensors& gradients, void* workspace,
                        int threads)
      : p(p),
        // Wide slabs share the plans of samples; there must be enough of them for the threads.
        slabs(direct_slabs<T>(p, p.batch * p.channels >= 512 ? 64 : 32)),
        blocks(p, slabs, copies_x),
        weights(p),
        wanted{gradients.grad_x != nullptr,
               gradients.grad_offset != nullptr || gradients.grad_mask != nullptr,
               gradients.grad_weight != nullptr},
        plans(smaller(p.taps(), kMaxPlans)),
        tile(direct_tile<T>(plans, kDirectTile)),
        grad_stride(weights.multiplier() * slabs[0].channels) {
    sums_partials = wanted.coordinates && shares_deformable_groups(p, slabs);
    const int64_t partials_size = sums_partials ? partial_rows(p, slabs) * p.out_pixels() : 0;
    const int64_t image_bytes =
        (2 * blocks.image_size() + partials_size) * static_cast<int64_t>(sizeof(T));
    // Enough of them for the threads, which share the slabs of images.
    const int64_t enough = ceil_div(4 * threads, slabs.count) * image_bytes;
    images = images_at_a_time(p, image_bytes,
                              smaller(kCopyBytes, larger(threads * kDirectCopyBytes, enough)));
    const int64_t weight_size = wanted.weight ? weights.size() : 0;
    const int64_t bias_size = gradients.grad_bias ? p.out_channels : 0;
    Arena arena(workspace);
    x = arena.take<T>(wanted.any() ? outside(threads) : 0);
    grad_x = arena.take<T>(wanted.x ? outside(threads) : 0);
    weight = arena.take<T>(wanted.x || wanted.coordinates ? weights.size() : 0);
    image_weights = arena.take<T>(images * weight_size);
    grad_weight = arena.take<T>(weight_size);
    image_biases = arena.take<double>(images * bias_size);
    grad_bias = arena.take<double>(bias_size);
    partials = arena.take<T>(images * partials_size);
    shared_bytes = arena.used();
    thread_bytes = thread_buffers(nullptr).bytes;
  }

  struct ThreadBuffers {
    T *grad, *mixed, *origins, *zeros;
    SamplingPlan<T>* plan;
    T (*sums)[4];  // of all planned taps' pixels
    int64_t bytes;
  };
  ThreadBuffers thread_buffers(void* memory) const {
    Arena arena(memory);
    ThreadBuffers own;
    own.grad = arena.take<T>(tile * grad_stride);
    own.mixed = arena.take<T>(weights.multiplier() > 1 ? tile * grad_stride : 0);
    own.origins = arena.take<T>(2 * kMaxTile);
    own.zeros = arena.take<T>(slabs[0].channels);
    own.plan = arena.take<SamplingPlan<T>>(plans);
    own.sums = arena.take<T[4]>(wanted.coordinates ? plans * kDirectTile : 0);
    own.bytes = arena.used();
    return own;
  }

  // Where what lies outside of the images begins for a thread, one pixel.
  int64_t outside(int64_t thread) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    return images * blocks.image_size() + thread * round_up(slabs[0].channels, 2 * kLine);
  }

  T* partial(int64_t image, int64_t slab, int64_t deformable_group, int64_t tap,
             int64_t which) const {
    const int64_t row = partial_row(p, slab, deformable_group, tap, which);
    return partials + (image * partial_rows(p, slabs) + row) * p.out_pixels();
  }
};

// Some channels at one pixel and tap: the output's gradient, the weights and their gradients.
template <typename T>
struct DirectGradient {
  const T* grad;  // [output of a channel][channel]
  const T* weight;
  T* grad_weight;
  int64_t outputs, output_stride, part_stride;

  // That of mask * S of kLanes channels.
  template <int kGroup, int kLanes>
  DCN_INLINE_MEMBER Vector<T, kLanes> of_samples(int64_t channel) const {
    const T* g = grad + channel;
    const T* w = weight + channel;
    if constexpr (kGroup == 0) {
      return load<kLanes>(g);
    } else if constexpr (kGroup == 1) {
      return load<kLanes>(w) * load<kLanes>(g);
    } else if constexpr (kGroup == kMultiplied) {
      Vector<T, kLanes> sum = load<kLanes>(w) * load<kLanes>(g);
      for (int64_t output = 1; output < outputs; ++output) {
        g += output_stride;
        w += part_stride;
        sum += load<kLanes>(w) * load<kLanes>(g);
      }
      return sum;
    } else {
      const Vector<T, kLanes> from = load<kLanes>(g);
      Vector<T, kLanes> sum = {};
      for_parts<kGroup>([&](auto part) {
        constexpr int kPart = decltype(part)::value;
        sum += exchange_lanes<kLanes, kPart>(load<kLanes>(w + kPart * part_stride) * from);
      });
      return sum;
    }
  }

  // Adds those of the weights of kLanes channels, from their mask * S.
  template <int kGroup, int kLanes>
  DCN_INLINE_MEMBER void add_products(int64_t channel, Vector<T, kLanes> sample) const {
    const T* g = grad + channel;
    T* target = grad_weight + channel;
    if constexpr (kGroup == kMultiplied) {
      for (int64_t output = 0; output < outputs; ++output) {
        store<kLanes>(target, load<kLanes>(target) + load<kLanes>(g) * sample);
        g += output_stride;
        target += part_stride;
      }
    } else {
      const Vector<T, kLanes> from = load<kLanes>(g);
      for_parts<kGroup>([&](auto part) {
        constexpr int kPart = decltype(part)::value;
        T* const sum = target + kPart * part_stride;
        store<kLanes>(sum, load<kLanes>(sum) + from * exchange_lanes<kLanes, kPart>(sample));
      });
    }
  }
};

// kAll: all of them are wanted, and no mask is infinite.
//
// For `count` channels of some planned taps of a tile: adds the four D_ab of each sample to
// sums[tap][pixel][4], the gradient of x, to_grad elements behind it, and that of the weight to its
// rows. Taps of a pixel sample nearly the same place, which stays in the cache.
template <bool kAll, int kGroup, typename Shape, typename T>
__attribute__((noinline)) void backpropagate_samples(
    Shape shape, Wanted wanted, const SamplingPlan<T>* plans, int64_t taps, int64_t pixels,
    const Image<T>& image, int64_t to_grad, int64_t count, const DirectGradient<T>& first,
    int64_t tap_stride, int64_t pixel_stride, T (*sums)[4]) {
  const bool coordinates = kAll || wanted.coordinates, x = kAll || wanted.x;
  const bool weight = kGroup != 0 && (kAll || wanted.weight);
  for (int64_t t = 0; t < pixels; ++t) {
    DirectGradient<T> gradient = first;
    gradient.grad += t * pixel_stride;
    for (int64_t k = 0; k < taps; ++k) {
      const SamplingPlan<T>& plan = plans[k];
      T* const sum = sums[k * kDirectTile + t];
      const Corners<T> corners = find_corners(image, plan, t);
      const Corners<const T> from{corners.p00, corners.p01, corners.p10, corners.p11};
      const CornerWeights<T> weights{plan.w00[t], plan.w01[t], plan.w10[t], plan.w11[t]};
      const auto masked = MaskedWeights<T>::template of<!kAll>(plan, t);
      Dots<Shape, T> dots;
      shape.for_vectors(count, [&](auto lanes, int64_t c) {
        constexpr int kLanes = decltype(lanes)::value;
        if constexpr (kLanes >= kGroup) {
          Vector<T, kLanes> sample = {}, g = {};
          if (weight) {
            sample = masked.template sample<!kAll, kLanes>(from.moved_by(c));
          }
          if (coordinates || x) g = gradient.template of_samples<kGroup, kLanes>(c);
          if (coordinates) {
            scatter_vector<true, false>(lanes, g, from.moved_by(c), corners, weights, dots, sum);
          }
          if (x) {
            // One more index in a register, not four more pointers, for which there is no room.
            int64_t at = c + to_grad;
            asm("" : "+r"(at));
            scatter_vector<false, true>(lanes, g, from, corners.moved_by(at), weights, dots, sum);
          }
          if constexpr (kGroup != 0) {
            if (weight) gradient.template add_products<kGroup, kLanes>(c, sample);
          }
        }
      });
      if (coordinates) dots.finish(sum);
      gradient.weight += tap_stride;
      gradient.grad_weight += tap_stride;
    }
  }
}

template <typename T>
struct DirectBackwardPass : BackwardPhases<VectorProduct<T>, DirectBackwardBuffers<T>> {
  using Base = BackwardPhases<VectorProduct<T>, DirectBackwardBuffers<T>>;
  using Base::Base, Base::p, Base::tensors, Base::buffers, Base::team, Base::own;
  using Base::tile, Base::first_image, Base::images;

  void run() {
    prepare();
    this->clear_padding();
    this->for_images([&] {
      if (buffers.wanted.any()) this->copy_x();
      if (tensors.grad_x) this->clear_grad_x();
      backpropagate();
      if (buffers.sums_partials) this->sum_partials(0, p.out_pixels());
      if (buffers.wanted.weight) {
        add_images(buffers.image_weights, buffers.weights.size(), buffers.grad_weight);
      }
      if (tensors.grad_bias) add_images(buffers.image_biases, p.out_channels, buffers.grad_bias);
      if (tensors.grad_x) this->write_grad_x();
    });
    if (buffers.wanted.weight) write_weight_gradient();
    if (tensors.grad_bias) this->write_bias_gradient();
  }

  void prepare() {
    if (buffers.wanted.any()) {
      __builtin_memset(buffers.x + buffers.outside(team.thread()), 0,
                       buffers.slabs[0].channels * sizeof(T));
    }
    const DirectWeights& weights = buffers.weights;
    team.for_each(weights.blocks() + 1, [&](int64_t task) {
      if (task == weights.blocks()) return clear_sums();
      if (buffers.wanted.x || buffers.wanted.coordinates)
        weights.pack(tensors.weight, p.dtype, task, buffers.weight);
    });
  }

  void backpropagate() {
    const int64_t slabs = buffers.slabs.count;
    team.for_each(images * slabs, [&](int64_t task) {
      const int64_t image = task / slabs, s = task % slabs;
      const Slab slab = buffers.slabs[s];
      clear_image_sums(slab, image);
      for (int64_t pixel = 0; pixel < p.out_pixels(); pixel += buffers.tile) {
        set_tile(p, first_image + image, pixel, smaller(buffers.tile, p.out_pixels() - pixel),
                 tile);
        read_grad_out(slab, image);
        if (buffers.wanted.any()) backpropagate_tile(s);
      }
    });
  }

  // Adds to `sums` those of the images at hand, in order.
  template <typename S>
  void add_images(const S* parts, int64_t size, S* sums) {
    constexpr int64_t kBlock = 1 << 12;
    team.for_each(ceil_div(size, kBlock), [&](int64_t task) {
      for (int64_t image = 0; image < images; ++image) {
        const S* const part = parts + image * size;
        for (int64_t i = task * kBlock; i < smaller((task + 1) * kBlock, size); ++i) {
          sums[i] += part[i];
        }
      }
    });
  }

  void write_weight_gradient() {
    team.for_each(buffers.weights.blocks(), [&](int64_t block) {
      buffers.weights.unpack(buffers.grad_weight, block, tensors.grad_weight, p.dtype);
    });
  }

 private:
  void clear_sums() {
    if (buffers.wanted.weight) {
      __builtin_memset(buffers.grad_weight, 0, buffers.weights.size() * sizeof(T));
    }
    if (tensors.grad_bias) {
      __builtin_memset(buffers.grad_bias, 0, p.out_channels * sizeof(double));
    }
  }

  // A slab's rows of one image.
  T* image_weights(int64_t image) const {
    return buffers.image_weights + image * buffers.weights.size();
  }
  double* image_biases(const Slab& slab, int64_t image) const {
    return buffers.image_biases + image * p.out_channels +
           slab.channel * buffers.weights.multiplier();
  }
  void clear_image_sums(const Slab& slab, int64_t image) const {
    const DirectWeights& weights = buffers.weights;
    for (int64_t row = 0; buffers.wanted.weight && row < weights.parts * weights.taps; ++row) {
      __builtin_memset(image_weights(image) + row * weights.stride + slab.channel, 0,
                       slab.channels * sizeof(T));
    }
    if (tensors.grad_bias) {
      __builtin_memset(image_biases(slab, image), 0,
                       slab.channels * weights.multiplier() * sizeof(double));
    }
  }

  // A slab's gradient of the output in the tile, to [pixel][output of a channel][channel]; adds it
  // to the gradient of the bias.
  void read_grad_out(const Slab& slab, int64_t image) const {
    const int64_t parts = buffers.weights.multiplier(), outputs = slab.channels * parts;
    T* const grad = parts > 1 ? own.mixed : own.grad;
    to_channels_last(like_out(p, tensors.grad_out),
                     {tile.image, slab.channel * parts, outputs, tile.pixel, tile.count}, grad);
    if (tensors.grad_bias) {
      double* const sums = image_biases(slab, image);
      for_lanes<kVectorLanes<T>>(outputs, [&](auto lanes, int64_t m) {
        constexpr int kLanes = decltype(lanes)::value;
        Vector<T, kLanes> sum = {};
        for (int64_t t = 0; t < tile.count; ++t) sum += load<kLanes>(grad + t * outputs + m);
        for (int i = 0; i < kLanes; ++i) sums[m + i] += static_cast<double>(sum[i]);
      });
    }
    if (parts == 1) return;
    T* target = own.grad;
    for (int64_t t = 0; t < tile.count; ++t) {
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t c = 0; c < slab.channels; ++c)
          *target++ = grad[t * outputs + c * parts + part];
      }
    }
  }

  void backpropagate_tile(int64_t s) {
    const Slab slab = buffers.slabs[s];
    const GroupRange range = deformable_range(p, slab);
    for (int64_t d = range.first; d <= range.last; ++d) {
      const Image<T> x = block_image(
          p, buffers.blocks, buffers.x + (tile.image - first_image) * buffers.blocks.image_size(),
          slab, d, buffers.x + buffers.outside(team.thread()));
      for (int64_t tap = 0; tap < p.taps(); tap += buffers.plans) {
        const int64_t taps = smaller(buffers.plans, p.taps() - tap);
        for (int64_t k = 0; k < taps; ++k) {
          plan_samples(p, this->offset, this->mask, this->flow, tile, d, tap + k, own.plan[k]);
        }
        if (buffers.wanted.coordinates) {
          __builtin_memset(own.sums, 0, taps * kDirectTile * sizeof(own.sums[0]));
        }
        with_direct_group(p, [&](auto group) {
          this->template backpropagate_taps<decltype(group)::value>(slab, d, tap, taps, x);
        });
        for (int64_t k = 0; buffers.wanted.coordinates && k < taps; ++k) {
          this->put_coordinate_gradients(own.plan[k], s, d, tap + k, own.sums + k * kDirectTile,
                                         tile.pixel);
        }
      }
    }
  }

  // The taps [tap, tap + taps), which are planned, of what a slab has of a deformable group.
  template <int kGroup>
  void backpropagate_taps(const Slab& slab, int64_t deformable_group, int64_t tap, int64_t taps,
                          const Image<T>& x) const {
    const DirectWeights& weights = buffers.weights;
    const Wanted wanted = buffers.wanted;
    const int64_t width = p.deformable_channels();
    const int64_t begin = larger(slab.channel, deformable_group * width);
    const int64_t count =
        smaller(slab.channel + slab.channels, (deformable_group + 1) * width) - begin;
    const int64_t first = begin - slab.channel, row = weights.row(0, tap) + begin;
    const DirectGradient<T> gradient{
        own.grad + first,     buffers.weight + row, image_weights(tile.image - first_image) + row,
        weights.multiplier(), slab.channels,        weights.row(1, 0)};
    const Image<T> image{x.data + first, x.height, x.width, x.stride, x.outside};
    const int64_t to_grad = wanted.x ? buffers.grad_x - buffers.x : 0;
    const bool infinite = has_infinite_masks(own.plan, taps);
    const auto run = [&](auto shape) {
      using Shape = decltype(shape);
      const auto function =
          !infinite && wanted.x && wanted.coordinates && (wanted.weight || kGroup == 0)
              ? backpropagate_samples<true, kGroup, Shape, T>
              : backpropagate_samples<false, kGroup, Shape, T>;
      function(shape, wanted, own.plan, taps, tile.count, image, to_grad, count, gradient,
               weights.stride, weights.multiplier() * slab.channels, own.sums);
    };
    constexpr int kLanes = kVectorLanes<T> > kGroup ? kVectorLanes<T> : kGroup;
    if (count % kLanes == 0) {
      run(RunShape<kLanes, 0>());
    } else {
      run(RunShape<kLanes, -1>());
    }
  }
};

template <typename T>
bool direct_backward(const Problem& p, const BackwardTensors& tensors, void* workspace,
                     int threads) {
  const DirectBackwardBuffers<T> buffers(p, tensors, workspace, threads);
  run_pass<DirectBackwardPass<T>, VectorProduct<T>>(p, tensors, buffers, workspace, threads);
  return true;
}

}  // namespace dcn::cpu::DCN_ISA

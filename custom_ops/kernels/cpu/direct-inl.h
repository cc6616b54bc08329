// The forward pass of few channels per group: with neither columns nor a product of matrices.
//
//   out[t][m] = bias[m] + sum over taps k of (mask * S(x))[t][k] . weight[m][k]
//
// Samples are multiplied where they are made, and summed in registers. Channels are the lanes of
// vectors. In groups of several channels, as many as outputs, lane m needs all channels m ^ r of
// its group: the lanes of the samples are exchanged.
#pragma once

#include "forward-inl.h"

namespace dcn::cpu::DCN_ISA {

constexpr int64_t kMaxDirectGroup = 8;    // channels, a power of two
constexpr int64_t kMaxMultiplier = 4;     // outputs of a group of one channel
constexpr int64_t kMaxPlans = 64;         // taps that are planned at a time
constexpr int64_t kPlanBytes = 48 << 10;  // of all plans of a tile, about
constexpr int kDirectRegisters = 8;       // vectors that are summed at a time
// Of x in channels-last order for each thread, about: it is sampled soon after, from the cache.
constexpr int64_t kDirectCopyBytes = 1 << 20;

// The weights as rows of channels: [part][tap][channel]. Part r of groups of several channels is
// what channel m of the outputs does with channel m ^ r; of single ones, their r-th outputs.
struct DirectWeights {
  int64_t channels, group, taps, parts, stride;

  explicit DirectWeights(const Problem& p)
      : channels(p.weighted ? p.channels : 0),
        group(p.group_channels()),
        taps(p.taps()),
        parts(p.group_outputs()),
        // 16 more where the rows of taps would fall into the same cache sets.
        stride(channels + (channels > 0 && channels % 512 == 0 ? 16 : 0)) {}

  int64_t size() const { return parts * taps * stride; }
  // Outputs of one channel.
  int64_t multiplier() const { return group == 1 ? parts : 1; }
  DCN_INLINE_MEMBER int64_t row(int64_t part, int64_t tap) const {
    return (part * taps + tap) * stride;
  }
  // The first of a channel's taps in the tensor [M, C / groups, kh, kw].
  int64_t index(int64_t part, int64_t channel) const {
    if (group == 1) return (channel * parts + part) * taps;
    return (channel * group + ((channel % group) ^ part)) * taps;
  }

  // f(channel, part, first tap, taps) for the channels [first, first + kBlock), kBlock taps at a
  // time.
  static constexpr int64_t kBlock = 64;
  template <typename F>
  void for_rows(int64_t first, F f) const {
    for (int64_t c = first; c < smaller(first + kBlock, channels); ++c) {
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t tap = 0; tap < taps; tap += kBlock) {
          f(c, part, tap, smaller(kBlock, taps - tap));
        }
      }
    }
  }
  int64_t blocks() const { return ceil_div(channels, kBlock); }

  // A block of channels from the tensor, and to it.
  template <typename T>
  void pack(const void* weight, DataType dtype, int64_t block, T* packed) const {
    for_rows(block * kBlock, [&](int64_t c, int64_t part, int64_t tap, int64_t count) {
      T converted[kBlock];
      const T* source = read_row(weight, dtype, index(part, c) + tap, count, converted);
      for (int64_t i = 0; i < count; ++i) packed[row(part, tap + i) + c] = source[i];
    });
  }
  template <typename T>
  void unpack(const T* packed, int64_t block, void* weight, DataType dtype) const {
    for_rows(block * kBlock, [&](int64_t c, int64_t part, int64_t tap, int64_t count) {
      T gathered[kBlock];
      for (int64_t i = 0; i < count; ++i) gathered[i] = packed[row(part, tap + i) + c];
      write_row(gathered, count, weight, dtype, index(part, c) + tap);
    });
  }
};

// v[i ^ kStep] in lane i.
template <int kStep, typename V, int... kLane>
DCN_INLINE V exchange_lanes(V v, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (kLane ^ kStep)...);
#else
  return __builtin_shuffle(v, decltype(v < v){(kLane ^ kStep)...});
#endif
}
template <int kLanes, int kStep, typename V>
DCN_INLINE V exchange_lanes(V v) {
  if constexpr (kStep == 0) return v;
  return exchange_lanes<kStep>(v, std::make_integer_sequence<int, kLanes>());
}

// f(Constant<part>) for the parts [kPart, kParts).
template <int kParts, int kPart = 0, typename F>
DCN_INLINE void for_parts(F f) {
  if constexpr (kPart < kParts) {
    f(Constant<kPart>());
    for_parts<kParts, kPart + 1>(f);
  }
}

// f(Constant<kLanes>, Constant<kVectors>, start) over `count` channels, whole groups, in pieces of
// kVectors vectors of kLanes channels.
template <typename T, int kGroup, int kMaxVectors, typename F>
DCN_INLINE void for_pieces(int64_t count, F f) {
  constexpr int kLanes = kVectorLanes<T> > kGroup ? kVectorLanes<T> : kGroup;
  const int64_t vectors = count / kLanes;
  for_row_blocks<kMaxVectors>(
      vectors, [&](auto size, int64_t first) { f(Constant<kLanes>(), size, first * kLanes); });
  if constexpr (kLanes > kGroup) {
    for_lanes<kLanes / 2>(
        count,
        [&](auto lanes, int64_t start) {
          if constexpr (decltype(lanes)::value >= kGroup) f(lanes, Constant<1>(), start);
        },
        vectors * kLanes);
  }
}

constexpr int kMultiplied = -1;  // single channels of several outputs

// f(Constant<channels of a group>), or kMultiplied; 0 where there are no weights.
template <typename F>
DCN_INLINE void with_direct_group(const Problem& p, F f) {
  if (!p.weighted) return f(Constant<0>());
  switch (p.group_channels()) {
    case 1:
      return p.group_outputs() == 1 ? f(Constant<1>()) : f(Constant<kMultiplied>());
    case 2:
      return f(Constant<2>());
    case 4:
      return f(Constant<4>());
    default:
      return f(Constant<8>());
  }
}

// Slabs of at most `widest` channels, about equally wide.
template <typename T>
Slabs direct_slabs(const Problem& p, int64_t widest) {
  const int64_t step = larger(kVectorLanes<T>, kMaxDirectGroup);
  const int64_t count = ceil_div(p.channels, larger(widest, step));
  return {p, round_up(ceil_div(p.channels, count), step)};
}

// Output pixels in a tile, up to `most`, of which so many taps are planned.
template <typename T>
int64_t direct_tile(int64_t plans, int64_t most) {
  constexpr int64_t kPixelBytes = sizeof(SamplingPlan<T>) / kMaxTile, kStep = 8;
  return smaller(most, larger(kStep, kPlanBytes / (kPixelBytes * plans) / kStep * kStep));
}

template <typename T>
struct DirectBuffers : ForwardImages<VectorProduct<T>> {
  using Base = ForwardImages<VectorProduct<T>>;
  using Base::slabs, Base::images, Base::shared_bytes, Base::thread_bytes;

  DirectWeights weights;
  int64_t pixels;          // output pixels in a task, at most
  int64_t slabs_per_task;  //
  int64_t plans;           // taps that are planned at a time
  int64_t out_stride;      //
  int64_t bias_stride;     //
  T* weight;               // see DirectWeights
  T* bias;                 // [part][channel]

  DirectBuffers(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads)
      : Base(p, direct_slabs<T>(p, kDirectRegisters * kVectorLanes<T>), true,
             smaller(kCopyBytes, threads * kDirectCopyBytes)),
        weights(p),
        plans(smaller(p.taps(), kMaxPlans)),
        out_stride(weights.multiplier() * slabs[0].channels),
        bias_stride(round_up(p.channels, 16)) {
    choose_task(p, threads);
    Arena arena(workspace), kept(tensors.packed);
    this->take_images(arena);
    bias = arena.take<T>(weights.multiplier() * bias_stride);
    take_weight(p, tensors.packed == nullptr ? arena : kept);
    shared_bytes = arena.used();
    thread_bytes = thread_buffers(nullptr).bytes;
  }

  // None of it depends on sizes of images.
  void take_weight(const Problem&, Arena& arena) { weight = arena.take<T>(weights.size()); }

  struct ThreadBuffers {
    T *out, *mixed, *origins, *zeros;
    SamplingPlan<T>* plan;
    int64_t bytes;
  };
  ThreadBuffers thread_buffers(void* memory) const {
    Arena arena(memory);
    ThreadBuffers own;
    own.out = arena.take<T>(pixels * out_stride);
    own.mixed = arena.take<T>(weights.multiplier() > 1 ? pixels * out_stride : 0);
    own.origins = arena.take<T>(2 * kMaxTile);
    own.zeros = arena.take<T>(slabs[0].channels);
    own.plan = arena.take<SamplingPlan<T>>(plans);
    own.bytes = arena.used();
    return own;
  }

  // Slabs share the plans of a task; where there are few pixels, threads share the slabs. Results
  // do not depend on it.
  void choose_task(const Problem& p, int threads) {
    const int64_t all = p.out_pixels();
    constexpr int64_t kStep = 8;
    pixels = smaller(all, direct_tile<T>(plans, kMaxTile));
    slabs_per_task = slabs.count;
    const auto tasks = [&] {
      return images * ceil_div(all, pixels) * ceil_div(slabs.count, slabs_per_task);
    };
    while (tasks() < 4 * threads) {
      if (pixels > 4 * kStep) {
        pixels = round_up(pixels / 2, kStep);
      } else if (slabs_per_task > 1) {
        slabs_per_task = ceil_div(slabs_per_task, 2);
      } else {
        break;
      }
    }
  }
};

// Where sums are taken from and put, per pixel.
template <typename T>
struct DirectSums {
  const T* initial;
  int64_t initial_stride;
  T* out;
  int64_t out_stride;
};

// A sample's weights of its corners without and with the mask, which is a factor of the sample if
// it is infinite: of its corners some are 0, count 0, or differ in sign, which would be NaN.
template <typename T>
struct MaskedWeights {
  CornerWeights<T> corner;
  T mask;  // a factor of their sum

  template <bool kInfinite>
  static DCN_INLINE_MEMBER MaskedWeights of(const SamplingPlan<T>& plan, int64_t t) {
    if (kInfinite && is_infinite(plan.mask[t])) {
      return {corner_weights(plan.ly[t], plan.lx[t]), plan.mask[t]};
    }
    return {{plan.w00[t], plan.w01[t], plan.w10[t], plan.w11[t]}, T(1)};
  }

  // mask * S of kLanes channels.
  template <bool kInfinite, int kLanes>
  DCN_INLINE_MEMBER Vector<T, kLanes> sample(const Corners<const T>& c) const {
    const Vector<T, kLanes> sum =
        corner.w00 * load<kLanes>(c.p00) + corner.w01 * load<kLanes>(c.p01) +
        corner.w10 * load<kLanes>(c.p10) + corner.w11 * load<kLanes>(c.p11);
    if constexpr (kInfinite) return mask * sum;
    return sum;
  }
};

// Whether some of the plans has an infinite mask.
template <typename T>
bool has_infinite_masks(const SamplingPlan<T>* plans, int64_t taps) {
  bool any = false;
  for (int64_t k = 0; k < taps; ++k) any |= plans[k].infinite_masks;
  return any;
}

// out[t] = initial[t] + what some channels of `taps` planned taps contribute, t over the tile.
template <bool kInfinite, int kLanes, int kVectors, int kGroup, typename T>
__attribute__((noinline)) void sum_samples(const SamplingPlan<T>* plans, int64_t taps,
                                           int64_t pixels, const Image<const T>& image,
                                           const T* weight, const DirectWeights& weights,
                                           DirectSums<T> sums) {
  const int64_t tap_stride = weights.stride, part_stride = weights.row(1, 0);
  for (int64_t t = 0; t < pixels; ++t) {
    Vector<T, kLanes> sum[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] = load<kLanes>(sums.initial + v * kLanes);
    const T* row = weight;
    for (int64_t k = 0; k < taps; ++k) {
      const SamplingPlan<T>& plan = plans[k];
      const Corners<const T> corner = find_corners(image, plan, t);
      const auto weights_of_corners = MaskedWeights<T>::template of<kInfinite>(plan, t);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Vector<T, kLanes> sample =
            weights_of_corners.template sample<kInfinite, kLanes>(corner.moved_by(v * kLanes));
        if constexpr (kGroup == 0) {
          sum[v] += sample;
        } else {
          for_parts<kGroup>([&](auto part) {
            constexpr int kPart = decltype(part)::value;
            sum[v] += load<kLanes>(row + kPart * part_stride + v * kLanes) *
                      exchange_lanes<kLanes, kPart>(sample);
          });
        }
      }
      row += tap_stride;
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store<kLanes>(sums.out + v * kLanes, sum[v]);
    sums.initial += sums.initial_stride;
    sums.out += sums.out_stride;
  }
}

template <typename T>
struct DirectPass : ForwardPhases<VectorProduct<T>, DirectBuffers<T>> {
  using Base = ForwardPhases<VectorProduct<T>, DirectBuffers<T>>;
  using Base::Base, Base::p, Base::tensors, Base::buffers, Base::team, Base::own;
  using Base::offset, Base::mask, Base::tile, Base::first_image, Base::images;

  void run() {
    pack_weights();
    this->for_images([&] {
      if (p.joined) this->compute_mask();
      if (buffers.copies_x) this->copy_x();
      compute();
    });
  }

  void pack_weights() {
    const DirectWeights& weights = buffers.weights;
    const bool packs = tensors.packed == nullptr || tensors.packs;
    team.for_each(weights.blocks() + 1, [&](int64_t task) {
      if (task == weights.blocks()) return pack_bias();
      if (packs) weights.pack(tensors.weight, p.dtype, task, buffers.weight);
    });
  }

  void compute() {
    const int64_t parts = ceil_div(buffers.slabs.count, buffers.slabs_per_task);
    const int64_t tasks = ceil_div(p.out_pixels(), buffers.pixels) * parts;  // of an image
    team.for_each(images * tasks, [&](int64_t task) {
      const int64_t pixel = task % tasks / parts * buffers.pixels;
      set_tile(p, first_image + task / tasks, pixel,
               smaller(buffers.pixels, p.out_pixels() - pixel), tile);
      const int64_t first = task % parts * buffers.slabs_per_task;
      compute_slabs(first, smaller(first + buffers.slabs_per_task, buffers.slabs.count));
    });
  }

 private:
  void pack_bias() {
    const int64_t outputs = buffers.weights.multiplier();
    for (int64_t output = 0; output < outputs; ++output) {
      T* const bias = buffers.bias + output * buffers.bias_stride;
      for (int64_t c = 0; c < p.channels; ++c) {
        T converted = 0;
        if (tensors.bias != nullptr)
          converted = *read_row(tensors.bias, p.dtype, c * outputs + output, 1, &converted);
        bias[c] = converted;
      }
    }
  }

  void compute_slabs(int64_t first, int64_t end) {
    const int64_t taps = p.taps(), step = buffers.plans;
    int64_t planned = -1;  // deformable group
    for (int64_t s = first; s < end; ++s) {
      const Slab slab = buffers.slabs[s];
      const GroupRange range = deformable_range(p, slab);
      const Target target = choose_target(slab);
      for (int64_t d = range.first; d <= range.last; ++d) {
        const Image<const T> image = this->x_image(slab, d);
        for (int64_t tap = 0; tap < taps; tap += step) {
          const int64_t count = smaller(step, taps - tap);
          if (d != planned || step < taps) {
            for (int64_t k = 0; k < count; ++k) {
              plan_samples(p, offset, mask, this->flow, tile, d, tap + k, own.plan[k]);
            }
            planned = d;
          }
          sum_taps(slab, d, tap, count, image, target);
        }
      }
      write(slab, target);
    }
  }

  // Where a slab's sums are made: in the tensor, if it takes them as they are.
  struct Target {
    T* data;
    int64_t stride;
    bool is_tensor;
  };
  Target choose_target(const Slab& slab) const {
    if (p.channels_last && p.dtype == kDataType<T> && buffers.weights.multiplier() == 1) {
      const int64_t index = like_out(p, tensors.out).index(tile.image, slab.channel, tile.pixel);
      return {static_cast<T*>(tensors.out) + index, p.out_channels, true};
    }
    return {own.out, buffers.out_stride, false};
  }

  // Adds what the channels of a slab and deformable group contribute in some taps.
  void sum_taps(const Slab& slab, int64_t deformable_group, int64_t tap, int64_t count,
                const Image<const T>& image, const Target& target) const {
    const DirectWeights& weights = buffers.weights;
    const int64_t width = p.deformable_channels();
    const int64_t begin = larger(slab.channel, deformable_group * width);
    const int64_t end = smaller(slab.channel + slab.channels, (deformable_group + 1) * width);
    const bool infinite = has_infinite_masks(own.plan, count);
    with_direct_group(p, [&](auto group) {
      constexpr int kGiven = decltype(group)::value, kGroup = kGiven < 0 ? 1 : kGiven;
      constexpr int kVectors = kGroup > 1 ? kDirectRegisters / 2 : kDirectRegisters;
      constexpr int kChannels = kGroup == 0 ? 1 : kGroup;
      for (int64_t output = 0; output < weights.multiplier(); ++output) {
        const auto sum = [&](auto masks, auto lanes, auto vectors, int64_t start) {
          const int64_t channel = begin + start, within = channel - slab.channel;
          const Image<const T> from{image.data + within, image.height, image.width, image.stride,
                                    image.outside};
          T* const out = target.data + output * slab.channels + within;
          const T* const bias = buffers.bias + output * buffers.bias_stride + channel;
          const DirectSums<T> sums{tap == 0 ? bias : out, tap == 0 ? 0 : target.stride, out,
                                   target.stride};
          sum_samples<decltype(masks)::value, decltype(lanes)::value, decltype(vectors)::value,
                      kGroup>(own.plan, count, tile.count, from,
                              buffers.weight + weights.row(output, tap) + channel, weights, sums);
        };
        if (__builtin_expect(infinite, 0)) {
          for_pieces<T, kChannels, 1>(end - begin, [&](auto lanes, auto vectors, int64_t start) {
            sum(std::true_type(), lanes, vectors, start);
          });
        } else {
          for_pieces<T, kChannels, kVectors>(end - begin,
                                             [&](auto lanes, auto vectors, int64_t start) {
                                               sum(std::false_type(), lanes, vectors, start);
                                             });
        }
      }
    });
  }

  void write(const Slab& slab, const Target& target) {
    const int64_t parts = buffers.weights.multiplier(), outputs = slab.channels * parts;
    T* data = target.data;
    if (parts > 1) {
      data = own.mixed;
      for (int64_t t = 0; t < tile.count; ++t) {
        const T* source = target.data + t * target.stride;
        T* const mixed = data + t * target.stride;
        for (int64_t part = 0; part < parts; ++part) {
          for (int64_t c = 0; c < slab.channels; ++c) mixed[c * parts + part] = *source++;
        }
      }
    }
    activate(p, tile.count, outputs, data, target.stride);
    if (target.is_tensor) return;
    from_channels_last(data, target.stride,
                       {tile.image, slab.channel * parts, outputs, tile.pixel, tile.count},
                       like_out(p, tensors.out));
  }
};

template <typename T>
bool direct_forward(const Problem& p, const ForwardTensors& tensors, void* workspace, int threads) {
  const DirectBuffers<T> buffers(p, tensors, workspace, threads);
  run_pass<DirectPass<T>, VectorProduct<T>>(p, tensors, buffers, workspace, threads);
  return true;
}

}  // namespace dcn::cpu::DCN_ISA

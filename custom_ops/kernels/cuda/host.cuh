// What the launchers share: the packed layout, the split of a batch into images at a time, the
// workspace, and a queue that stops at the first error.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <type_traits>

#include "../dcn.h"
#include "../workspace.h"
#include "relayout.cuh"
#include "sampler.cuh"

namespace dcn {
namespace cuda {

constexpr int64_t kMiB = int64_t{1} << 20;

// What a workspace may take, unless a single image needs more.
constexpr int64_t kWorkspaceBudget = 60 * kMiB;
// What the per-image buffers may take of it together where nothing else is said.
constexpr int64_t kImageBudget = 28 * kMiB;

class Queue {
 public:
  // `early`: whether kernels may start before the ones before them end.
  explicit Queue(void* stream, bool early = true)
      : stream_(static_cast<cudaStream_t>(stream)), early_(early) {}

  // kBarriers: whether the kernel's threads wait for each other.
  template <bool kBarriers, typename Kernel, typename... Arguments>
  void run(Kernel kernel, int64_t blocks, int threads, size_t shared_bytes,
           const Arguments&... arguments) {
    if (error_ == cudaSuccess) {
      keep(launch<kBarriers>(kernel, blocks, threads, shared_bytes, stream_, early_ && after_own_,
                             arguments...));
    }
    after_own_ = after_own_ || blocks > 0;
  }
  void clear(void* target, int64_t bytes) {
    if (error_ == cudaSuccess && bytes > 0) keep(cudaMemsetAsync(target, 0, bytes, stream_));
    after_own_ = false;
  }
  int error() const { return error_; }

 private:
  void keep(cudaError_t error) {
    error_ = error;
    if (error != cudaSuccess) (void)cudaGetLastError();  // of which the next call would be told
  }

  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
  bool early_;
  bool after_own_ = false;  // whether what was enqueued last is a kernel of this library
};

inline int processors() { return device_attribute(cudaDevAttrMultiProcessorCount, 1); }

// Whether a problem asks for what dcn.h gives to CPUs alone.
inline bool is_for_cpus(const Problem& p) {
  return p.joined || p.plain || p.x_channels_last || p.planes_last || p.packed_planes != 0 ||
         p.flows != 0 || p.offset_bound != 0 || p.negative_slope != 1 ||
         p.upper_bound != std::numeric_limits<double>::infinity();
}

// Whether a kernel of hopper.cuh's operations has a body in the code that this device runs: all but
// sm_90a's, so also what the driver compiles of PTX, is empty and takes a few registers.
template <typename Kernel>
bool has_code_for_hopper(Kernel kernel) {
  int device = 0, major = 0;
  cudaFuncAttributes code;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaFuncGetAttributes(&code, kernel) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  return major == 9 && code.numRegs > 64;
}

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

inline Segments input_segments(const Problem& p, int vector) {
  const int64_t segment = std::gcd(p.group_channels(), p.deformable_channels());
  return {p.channels / segment, segment, ceil_div(segment, vector) * vector};
}
inline Segments output_segments(const Problem& p, int vector) {
  return {p.groups, p.group_outputs(), ceil_div(p.group_outputs(), vector) * vector};
}

template <typename Index>
Geometry<Index> geometry(const Problem& p, const Segments& in, int64_t images) {
  Geometry<Index> g;
  g.height = static_cast<Index>(p.height);
  g.width = static_cast<Index>(p.width);
  g.out_height = static_cast<Index>(p.out_height);
  g.out_width = static_cast<Index>(p.out_width);
  g.out_pixels = static_cast<Index>(p.out_pixels());
  g.kernel_width = static_cast<Index>(p.kernel_w);
  g.taps = static_cast<Index>(p.taps());
  g.stride_h = static_cast<Index>(p.stride_h);
  g.stride_w = static_cast<Index>(p.stride_w);
  g.pad_top = static_cast<Index>(p.pad_top);
  g.pad_left = static_cast<Index>(p.pad_left);
  g.dilation_h = static_cast<Index>(p.dilation_h);
  g.dilation_w = static_cast<Index>(p.dilation_w);
  g.deformable_groups = static_cast<Index>(p.deformable_groups);
  g.channels = static_cast<Index>(in.packed_channels());
  g.group_channels = static_cast<Index>(in.packed_channels() / p.groups);
  g.deformable_channels = static_cast<Index>(in.packed_channels() / p.deformable_groups);
  g.pixels = static_cast<Index>(images * p.out_pixels());
  return g;
}

// The most elements that any tensor has per image, on its way through the kernels, with room for
// a tile beyond its end.
inline int64_t image_elements(const Problem& p, const Segments& in, const Segments& out) {
  const int64_t x = (p.height + 2) * (p.width + 2) * in.packed_channels();
  const int64_t y = (p.out_pixels() + 512) * out.packed_channels();
  const int64_t offset = 2 * (p.out_pixels() + 512) * p.deformable_groups * p.taps();
  const int64_t weight = (p.out_channels + 512) * p.taps() * in.packed_channels() / p.groups;
  return std::max({x, y, offset, weight});
}

// The largest number on the way to tap_origin().
inline int64_t largest_origin(const Problem& p) {
  return std::max({(p.out_height - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h,
                   (p.out_width - 1) * p.stride_w + (p.kernel_w - 1) * p.dilation_w, p.pad_top,
                   p.pad_left});
}

// The most images that can go through the kernels at a time.
constexpr int64_t kLimit = (int64_t{1} << 31) - 1;  // of a 32-bit index
inline int64_t most_images(const Problem& p, int64_t image_elements, int64_t image_bytes,
                           int64_t budget) {
  int64_t images = p.im2col_step > 0 ? p.im2col_step : p.batch;
  if (image_bytes > 0) images = std::min(images, budget / image_bytes);
  return std::max<int64_t>(std::min({images, p.batch, kLimit / image_elements}), 1);
}

// How many images go through the kernels at a time, and whether 32-bit indices do for them.
struct Batches {
  int64_t images;
  bool wide;
};
inline Batches split_batch(const Problem& p, int64_t image_elements, int64_t image_bytes, int flags,
                           int64_t budget = kImageBudget) {
  int64_t images = most_images(p, image_elements, image_bytes, budget);
  images = ceil_div(p.batch, std::max<int64_t>(ceil_div(p.batch, images), 1));  // evenly
  const bool wide = std::max(image_elements, largest_origin(p)) > kLimit || flags & kWideIndex;
  return {std::max<int64_t>(images, 1), wide};
}

template <typename T>
const T* advance(const void* base, int64_t elements) {
  return base ? static_cast<const T*>(base) + elements : nullptr;
}
inline const void* advance_bytes(const void* base, int64_t bytes) {
  return base ? static_cast<const char*>(base) + bytes : nullptr;
}

// For kernels whose threads step through `size` elements.
constexpr int kElementwiseThreads = 256;
inline int64_t elementwise_blocks(int64_t size) {
  return std::min<int64_t>(ceil_div(size, kElementwiseThreads), 4096);
}

// Bytes of one offset or mask value.
template <typename T>
int64_t offset_size(const Problem& p) {
  return p.offset_dtype == DataType::kFloat32 ? 4 : static_cast<int64_t>(sizeof(T));
}

// Calls run(T{}) with the element type the kernels work in.
template <typename Run>
auto with_element_type(const Problem& p, int flags, const Run& run) {
  switch (p.dtype) {
    case DataType::kFloat16:
      return run(Half{});
    case DataType::kBFloat16:
      return run(BFloat16{});
    case DataType::kFloat64:
      return run(double{});
    default:
      return flags & kTensorFloat32 ? run(TensorFloat32{}) : run(float{});
  }
}

// Whether operands of the product differ from what is in memory.
template <typename T>
constexpr bool kRounds = std::is_same<T, TensorFloat32>::value;

template <typename T, typename Rows>
void pack(Queue& queue, const Relayout& r, const Rows& rows, bool round, const T* plain,
          T* packed) {
  queue.run<true>(pack_kernel<T, Rows>, r.tiles<T>(), Relayout::kThreads, RelayoutTile<T>::kBytes,
                  r, rows, round, plain, packed);
}
// Writes, or with `add` adds, the sum of `parts` packed tensors of `size` elements; it may be
// written over the first.
template <typename S>
void sum_parts(Queue& queue, int64_t size, int64_t parts, const S* packed, S* sum, bool add) {
  constexpr int64_t kStep = Relayout::kThreads * Vector<S>::kSize;
  queue.run<false>(sum_parts_kernel<S>, ceil_div(size, kStep), Relayout::kThreads, 0, size,
                   static_cast<int>(parts), packed, sum, add);
}

// The sum of `parts` packed tensors, in their order, and of bias, if any; `packed` is overwritten.
template <typename T>
void unpack(Queue& queue, const Relayout& r, int64_t parts, Sum<T>* packed, T* plain,
            const T* bias = nullptr) {
  constexpr int64_t kParts = 4;  // more keep the few blocks of a small tensor too long
  if (parts > kParts) {
    const int64_t size = r.rows() * r.segments.packed_channels();
    sum_parts<Sum<T>>(queue, size, parts, packed, packed, false);
    parts = 1;
  }
  queue.run<true>(unpack_kernel<T>, r.tiles<T>(), Relayout::kThreads, RelayoutTile<T>::kBytes, r,
                  static_cast<int>(parts), packed, bias, plain);
}

// x (segments = input_segments) or the output gradient.
template <typename T>
void pack_images(Queue& queue, const Segments& segments, bool channels_last, int64_t images,
                 int64_t pixels, bool round, const T* plain, T* packed) {
  pack(queue, Relayout{segments, images, pixels, channels_last}, SameRows{}, round, plain, packed);
}
template <typename T>
void pack_forward_weight(Queue& queue, const WeightLayout& w, const T* plain, T* packed) {
  pack(queue, w.forward(), SameRows{}, kRounds<T>, plain, packed);
}
template <typename T>
void pack_backward_weight(Queue& queue, const WeightLayout& w, const T* plain, T* packed) {
  if (w.inputs.size != w.inputs.padded) {
    queue.clear(packed, w.backward_size() * static_cast<int64_t>(sizeof(T)));
  }
  pack(queue, w.backward(), w.backward_rows(), kRounds<T>, plain, packed);
}

}  // namespace cuda
}  // namespace dcn

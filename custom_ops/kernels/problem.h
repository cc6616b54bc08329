// One deformable convolution, as the kernels of every device are told it: sizes, layout, data
// types, tensors.
#pragma once

#include <cstdint>
#include <limits>

// What every device compiles. Functions of several instruction sets must be inlined, see
// cpu/isa-inl.h.
#if defined(__CUDACC__)
#define DCN_INLINE_MEMBER __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DCN_INLINE_MEMBER inline __attribute__((always_inline))
#else
#define DCN_INLINE_MEMBER inline
#endif
#define DCN_INLINE static DCN_INLINE_MEMBER

namespace dcn {

// Element types a tensor can have in memory.
enum class DataType : int { kFloat16, kBFloat16, kFloat32, kFloat64 };
constexpr int kDataTypes = 4;

// The CPU's kernels for few channels per group compute without columns, see cpu/direct-inl.h.
enum class Path : int { kFastest, kColumns, kDirect };

// Plain data.
struct Problem {
  int64_t batch;                                     // N
  int64_t channels, height, width;                   // x:      [N, C, H, W], or [N, H, W, C]
  int64_t out_channels, out_height, out_width;       // out:    [N, M, Ho, Wo], or [N, Ho, Wo, M]
  int64_t kernel_h, kernel_w;                        // weight: [M, C / groups, kh, kw]
  int64_t stride_h, stride_w;                        //
  int64_t pad_top, pad_bottom, pad_left, pad_right;  // pixels of zeros around x
  int64_t dilation_h, dilation_w;                    //
  int64_t groups, deformable_groups;                 //
  int64_t im2col_step;    // images in the workspace at a time; 0: chosen here
  DataType dtype;         // of x, weight, bias, out
  DataType offset_dtype;  // of offset and mask: dtype or kFloat32
  bool channels_last;     // x and out are NHWC; of offset and mask see planes_last
  bool modulated;         // v2: there is a mask

  // For inference only, forward on the CPU.
  // offset is [N, 3 * deformable_groups * kh * kw, Ho, Wo], and the mask the sigmoid of its last
  // third. There is no tensor `mask`.
  bool joined = false;
  // out = min(y < 0 ? negative_slope * y : y, upper_bound)
  double negative_slope = 1, upper_bound = std::numeric_limits<double>::infinity();
  // A plain convolution: there are no tensors `offset` and `mask`. 3x3 only, float32, without
  // strides, dilations and groups.
  bool plain = false;
  // Offsets are offset_bound * tanh(offset), unless it is 0, plus `flow`, if there are any flows:
  // each is for the same number of deformable groups, which follow one another.
  double offset_bound = 0;
  int64_t flows = 0;
  bool x_channels_last = false;  // x is NHWC, whatever out is

  // Without weights, out is bias plus the sum over taps of mask * S, channel by channel: groups and
  // out_channels are the channels. The CPU reads no weight; CUDA is given one of ones.
  bool weighted = true;
  // On the CPU only: offset and mask are [N, Ho, Wo, planes] in the order of DCNv3: taps go down
  // the columns of the kernel, x comes before y. If packed_planes is not 0, they are in one tensor
  // of so many planes, as in DCNv4: of each deformable group the offsets, then the masks, and
  // padding behind the last. There is no tensor `mask`.
  bool planes_last = false;
  int64_t packed_planes = 0;
  // Which kernels, where several are for the problem; like im2col_step it says how, not what, so it
  // stands here rather than in every call's arguments. kFastest: chosen here.
  Path path = Path::kFastest;

  bool reads_channels_last() const { return channels_last || x_channels_last; }
  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t in_pixels() const { return height * width; }
  int64_t out_pixels() const { return out_height * out_width; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_outputs() const { return out_channels / groups; }
  int64_t deformable_channels() const { return channels / deformable_groups; }
};

// Contiguous tensors in the layouts given at Problem. `mask` is null in v1.
struct ForwardTensors {
  const void* x;
  const void* offset;  // [N, deformable_groups * kh * kw * 2, Ho, Wo]: per tap y, then x, or see
                       // planes_last
  const void* mask;    // [N, deformable_groups * kh * kw, Ho, Wo]
  const void* weight;
  const void* bias;  // [M], or null without weights: zeros
  void* out;
  // On the CPU: null, or dcn_cpu_packed_bytes() of memory, 64-byte aligned, in which the weight is
  // kept between calls as the kernels want it. This call puts it there if `packs`; else an earlier
  // one on the same engine has, and `weight` is not read unless another engine computes again.
  void* packed = nullptr;
  bool packs = false;
  // Of a plain convolution: null, or what is added to it before the activation, like out.
  const void* addend = nullptr;
  const void* flow = nullptr;  // [N, 2 * flows, Ho, Wo], of offset's type: of each y, then x
};

// A null gradient is not wanted and costs nothing. Wanted ones are overwritten, not added to.
struct BackwardTensors {
  const void* x;
  const void* offset;
  const void* mask;
  const void* weight;
  const void* grad_out;
  void* grad_x;
  void* grad_offset;
  void* grad_mask;
  void* grad_weight;
  void* grad_bias;
};

}  // namespace dcn

// The kernel library in a program without Paddle: a deformable convolution through its C API.
//
//   g++ -std=c++17 -O3 -pthread -Icustom_ops examples/without_paddle.cc \
//       custom_ops/kernels/cpu/*.cc -ldl -o without_paddle && ./without_paddle
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/dcn.h"

int main() {
  // One image of one channel, 4 x 5 pixels; a 1 x 1 kernel that is displaced by half a pixel.
  dcn::Problem p{};
  p.batch = p.channels = p.out_channels = p.kernel_h = p.kernel_w = 1;
  p.height = p.out_height = 4;
  p.width = p.out_width = 5;
  p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = p.groups = p.deformable_groups = 1;
  p.dtype = p.offset_dtype = dcn::DataType::kFloat32;

  std::vector<float> x(20), offset(2 * 20, 0.0f), out(20);
  for (int i = 0; i < 20; ++i) x[i] = static_cast<float>(i);
  for (int i = 20; i < 40; ++i) offset[i] = 0.5f;  // to the right; the first 20 are down
  const float weight = 2, bias = 1;
  const dcn::ForwardTensors tensors{x.data(), offset.data(), nullptr, &weight, &bias, out.data()};

  const int engine = dcn_cpu_default_engine(p.dtype, -1), threads = dcn_cpu_max_threads();
  const size_t bytes = dcn_cpu_forward_workspace(&p, &tensors, engine, threads);
  void* const workspace = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  dcn_cpu_forward(&p, &tensors, workspace, engine, threads);
  std::free(workspace);

  std::printf("on the engine %s:\n", dcn_cpu_engine_name(engine));
  for (int i = 0; i < 20; ++i) std::printf("%5g%s", out[i], i % 5 == 4 ? "\n" : "");
}

// Plain loops over the definition: correct and slow. Stands in until the fast kernels arrive.
#include <cmath>
#include <cstring>
#include <vector>

#include "../sampling.h"
#include "cpu.h"

namespace dcn {
namespace cpu {
namespace {

double bits_to_double(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

double load(const void* data, DataType type, int64_t i) {
  if (type == DataType::kFloat64) return static_cast<const double*>(data)[i];
  if (type == DataType::kFloat32) return static_cast<const float*>(data)[i];
  const uint16_t half = static_cast<const uint16_t*>(data)[i];
  if (type == DataType::kBFloat16) return bits_to_double(static_cast<uint32_t>(half) << 16);
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  double value = exponent == 0    ? std::ldexp(fraction, -24)
                 : exponent == 31 ? (fraction ? NAN : INFINITY)
                                  : std::ldexp(fraction + 1024, exponent - 25);
  return half & 0x8000 ? -value : value;
}

void store(void* data, DataType type, int64_t i, double value) {
  if (type == DataType::kFloat64) {
    static_cast<double*>(data)[i] = value;
  } else if (type == DataType::kFloat32) {
    static_cast<float*>(data)[i] = static_cast<float>(value);
  } else if (type == DataType::kBFloat16) {
    const float single = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    static_cast<uint16_t*>(data)[i] =
        static_cast<uint16_t>(std::isnan(single) ? 0x7fc0 : rounded);
  } else {
    uint16_t half;
    if (std::isnan(value)) {
      half = 0x7e00;
    } else {
      const double magnitude = std::fabs(value);
      int exponent;
      std::frexp(magnitude, &exponent);
      const int shift = exponent < -13 ? -24 : exponent - 11;
      const double scaled = std::nearbyint(std::ldexp(magnitude, -shift));
      const double rounded = std::ldexp(scaled, shift);
      if (rounded >= 65520 || magnitude >= 65520) {
        half = 0x7c00;
      } else if (rounded < std::ldexp(1, -14)) {
        half = static_cast<uint16_t>(std::ldexp(rounded, 24));
      } else {
        std::frexp(rounded, &exponent);
        half = static_cast<uint16_t>(((exponent + 14) << 10) +
                                     (std::ldexp(rounded, 11 - exponent) - 1024));
      }
      if (std::signbit(value)) half |= 0x8000;
    }
    static_cast<uint16_t*>(data)[i] = half;
  }
}

int64_t image_index(const Problem& p, int64_t n, int64_t c, int64_t y, int64_t x) {
  return p.channels_last ? ((n * p.height + y) * p.width + x) * p.channels + c
                         : ((n * p.channels + c) * p.height + y) * p.width + x;
}

int64_t out_index(const Problem& p, int64_t n, int64_t m, int64_t pixel) {
  return p.channels_last ? (n * p.out_pixels() + pixel) * p.out_channels + m
                         : (n * p.out_channels + m) * p.out_pixels() + pixel;
}

// Where one tap of one output pixel samples, and its place in offset and mask.
struct Tap {
  Sample<double> at;
  int64_t offset_y, offset_x, mask;
};

Tap locate_tap(const Problem& p, const void* offset, int64_t n, int64_t d, int64_t tap,
               int64_t pixel) {
  Tap t;
  const int64_t plane = (n * p.deformable_groups + d) * p.taps() + tap;
  t.mask = plane * p.out_pixels() + pixel;
  t.offset_y = plane * 2 * p.out_pixels() + pixel;
  t.offset_x = t.offset_y + p.out_pixels();
  const int64_t y = tap_origin(pixel / p.out_width, tap / p.kernel_w, p.stride_h, p.pad_top,
                               p.dilation_h);
  const int64_t x = tap_origin(pixel % p.out_width, tap % p.kernel_w, p.stride_w, p.pad_left,
                               p.dilation_w);
  t.at = locate<double>(y + load(offset, p.offset_dtype, t.offset_y),
                        x + load(offset, p.offset_dtype, t.offset_x), p.height, p.width);
  return t;
}

bool inside(const Problem& p, int64_t y, int64_t x) {
  return y >= 0 && y < p.height && x >= 0 && x < p.width;
}

}  // namespace

size_t forward_workspace(const Problem&, int) { return 0; }
size_t backward_workspace(const Problem&, const BackwardTensors&, int) { return 0; }

void forward(const Problem& p, const ForwardTensors& t, void*, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < p.batch * p.out_pixels(); ++item) {
    const int64_t n = item / p.out_pixels(), pixel = item % p.out_pixels();
    std::vector<double> sums(p.out_channels);
    for (int64_t m = 0; m < p.out_channels; ++m) sums[m] = load(t.bias, p.dtype, m);
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int64_t k = 0; k < p.taps(); ++k) {
        const Tap tap = locate_tap(p, t.offset, n, c / p.deformable_channels(), k, pixel);
        double column = 0;
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t y = tap.at.y0 + corner / 2, x = tap.at.x0 + corner % 2;
          if (!inside(p, y, x)) continue;
          column += (corner / 2 ? tap.at.ly : 1 - tap.at.ly) *
                    (corner % 2 ? tap.at.lx : 1 - tap.at.lx) *
                    load(t.x, p.dtype, image_index(p, n, c, y, x));
        }
        if (p.modulated) column *= load(t.mask, p.offset_dtype, tap.mask);
        const int64_t g = c / p.group_channels();
        for (int64_t j = 0; j < p.group_outputs(); ++j) {
          const int64_t m = g * p.group_outputs() + j;
          sums[m] += column * load(t.weight, p.dtype,
                                   (m * p.group_channels() + c % p.group_channels()) * p.taps() + k);
        }
      }
    }
    for (int64_t m = 0; m < p.out_channels; ++m) {
      store(t.out, p.dtype, out_index(p, n, m, pixel), sums[m]);
    }
  }
}

void backward(const Problem& p, const BackwardTensors& t, void*, int) {
  const int64_t planes = p.batch * p.deformable_groups * p.taps() * p.out_pixels();
  std::vector<double> grad_x(p.batch * p.channels * p.in_pixels()), grad_offset(planes * 2),
      grad_mask(planes), grad_weight(p.out_channels * p.group_channels() * p.taps()),
      grad_bias(p.out_channels);
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t pixel = 0; pixel < p.out_pixels(); ++pixel) {
      for (int64_t m = 0; m < p.out_channels; ++m) {
        grad_bias[m] += load(t.grad_out, p.dtype, out_index(p, n, m, pixel));
      }
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t g = c / p.group_channels();
        for (int64_t k = 0; k < p.taps(); ++k) {
          const Tap tap = locate_tap(p, t.offset, n, c / p.deformable_channels(), k, pixel);
          const double mask = p.modulated ? load(t.mask, p.offset_dtype, tap.mask) : 1.0;
          double grad_column = 0, sample = 0, dy = 0, dx = 0;
          for (int64_t m = g * p.group_outputs(); m < (g + 1) * p.group_outputs(); ++m) {
            grad_column += load(t.grad_out, p.dtype, out_index(p, n, m, pixel)) *
                           load(t.weight, p.dtype,
                                (m * p.group_channels() + c % p.group_channels()) * p.taps() + k);
          }
          for (int corner = 0; corner < 4; ++corner) {
            const int64_t y = tap.at.y0 + corner / 2, x = tap.at.x0 + corner % 2;
            if (!inside(p, y, x)) continue;
            const double wy = corner / 2 ? tap.at.ly : 1 - tap.at.ly;
            const double wx = corner % 2 ? tap.at.lx : 1 - tap.at.lx;
            const int64_t at = image_index(p, n, c, y, x);
            const double value = load(t.x, p.dtype, at);
            sample += wy * wx * value;
            dy += (corner / 2 ? wx : -wx) * value;
            dx += (corner % 2 ? wy : -wy) * value;
            grad_x[at] += grad_column * mask * wy * wx;
          }
          if (tap.at.y0 >= -1) {
            grad_offset[tap.offset_y] += grad_column * mask * dy;
            grad_offset[tap.offset_x] += grad_column * mask * dx;
            grad_mask[tap.mask] += grad_column * sample;
          }
          for (int64_t m = g * p.group_outputs(); m < (g + 1) * p.group_outputs(); ++m) {
            grad_weight[(m * p.group_channels() + c % p.group_channels()) * p.taps() + k] +=
                load(t.grad_out, p.dtype, out_index(p, n, m, pixel)) * sample * mask;
          }
        }
      }
    }
  }
  const auto write = [](void* to, DataType type, const std::vector<double>& from) {
    for (size_t i = 0; to != nullptr && i < from.size(); ++i) store(to, type, i, from[i]);
  };
  write(t.grad_x, p.dtype, grad_x);
  write(t.grad_offset, p.offset_dtype, grad_offset);
  write(t.grad_mask, p.offset_dtype, grad_mask);
  write(t.grad_weight, p.dtype, grad_weight);
  write(t.grad_bias, p.dtype, grad_bias);
}

const char* instruction_set() { return "baseline"; }

}  // namespace cpu
}  // namespace dcn

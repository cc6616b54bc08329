// Samples listed by cell, the square between four input pixels that a sample lies in, so that an
// input pixel finds the samples it has a share in: those in the four cells around it.
//
// A bin is filled in any order, with integer atomics, and then put in the order of output pixels
// and taps by counting for each sample how many of its bin come before it. Bins of a row of cells
// lie one after the other, so the two to the left and right of a pixel are one range.
#pragma once

#include "sampler.cuh"

namespace dcn {
namespace cuda {

template <typename T>
struct alignas(16) BinnedSample {
  Sum<T> y, x, mask;
  int entry;  // tap << pixel_bits | output pixel of its image
};

// The bins of all samples of some images and deformable groups; a plane is one of each.
template <typename T>
struct Bins {
  Geometry<int> geometry;
  Inputs<T> inputs;
  int first_image, first_group, groups, planes;
  int pixel_bits;            // of an output pixel's number
  int* ends;                 // [planes][height + 1][width + 2]: where each bin starts and ends
  int* used;                 // one number: entries listed so far
  int* arrivals;             // [planes][taps][out_pixels]: place in the bin as it fills, or -1
  int* lists;                // [entries]
  BinnedSample<T>* samples;  // [entries]

  static constexpr int kThreads = 256;

  DCN_DEVICE int row_size() const { return geometry.width + 2; }
  // Where the bin of the cell right below and right of input pixel (y, x) starts; y, x >= -1.
  DCN_DEVICE int* start(int plane, int y, int x) const {
    return ends + (int64_t{plane} * (geometry.height + 1) + y + 1) * row_size() + x + 1;
  }
  struct Located {
    int plane, entry, cell_y, cell_x;
    BinnedSample<T> sample;
  };
  // The i-th of planes * taps * out_pixels.
  DCN_DEVICE Located locate(int64_t i) const {
    const int pixel = static_cast<int>(i % geometry.out_pixels);
    const int rest = static_cast<int>(i / geometry.out_pixels);
    const int plane = rest / geometry.taps, tap = rest - plane * geometry.taps;
    const int image = plane / groups;
    Pixel<int> p;
    p.image = first_image + image;
    p.row = pixel / geometry.out_width;
    p.column = pixel - p.row * geometry.out_width;
    const Tap<T, int> raw(geometry, inputs, p, tap, first_group + plane - image * groups);
    const Sample<Sum<T>> s = raw.sample(geometry, inputs, p, tap);
    const int entry = tap << pixel_bits | pixel;
    return {plane, entry, s.y0, s.x0, {s.y0 + s.ly, s.x0 + s.lx, raw.mask(inputs), entry}};
  }
  DCN_DEVICE int64_t entries() const {
    return int64_t{planes} * geometry.taps * geometry.out_pixels;
  }
};

template <typename T>
__global__ void __launch_bounds__(Bins<T>::kThreads) count_bins_kernel(const Bins<T> b) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < b.entries(); i += step) {
    const auto s = b.locate(i);
    b.arrivals[i] = s.cell_y < -1 ? -1 : atomicAdd(b.start(s.plane, s.cell_y, s.cell_x), 1);
  }
}

// A warp replaces the counts of a row of cells by where they start.
template <typename T>
__global__ void __launch_bounds__(Bins<T>::kThreads) place_bins_kernel(const Bins<T> b) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const bool valid = row < int64_t{b.planes} * (b.geometry.height + 1);
  int* const counts = b.ends + (valid ? row : 0) * b.row_size();
  // Inclusive sums over the lanes, by the halves of ever larger groups of them.
  const auto scan = [&](int value, int* total) {
    int sum = value;  // over the lanes of the group up to this one
    int all = value;  // over the group
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) {
      const int other = __shfl_xor_sync(0xffffffffu, all, mask);
      if (lane & mask) sum += other;
      all += other;
    }
    *total = all;
    return sum;
  };
  int size = 0, base = 0;
  for (int first = 0; first < b.row_size(); first += 32) {
    int total;
    const int x = first + lane;
    scan(valid && x < b.row_size() ? counts[x] : 0, &total);
    size += total;
  }
  if (valid && lane == 0 && size > 0) base = atomicAdd(b.used, size);
  int unused;
  scan(base, &unused);
  base = unused;
  for (int first = 0; first < b.row_size(); first += 32) {
    int total;
    const int x = first + lane, count = valid && x < b.row_size() ? counts[x] : 0;
    const int before = scan(count, &total) - count;
    if (valid && x < b.row_size()) counts[x] = base + before;
    base += total;
  }
}

template <typename T>
__global__ void __launch_bounds__(Bins<T>::kThreads) fill_bins_kernel(const Bins<T> b) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < b.entries(); i += step) {
    const auto s = b.locate(i);
    if (s.cell_y < -1) continue;
    b.lists[*b.start(s.plane, s.cell_y, s.cell_x) + b.arrivals[i]] = s.entry;
  }
}

template <typename T>
__global__ void __launch_bounds__(Bins<T>::kThreads) order_bins_kernel(const Bins<T> b) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < b.entries(); i += step) {
    const auto s = b.locate(i);
    if (s.cell_y < -1) continue;
    const int* const start = b.start(s.plane, s.cell_y, s.cell_x);
    const int first = start[0], end = start[1];
    int at = first;
    for (int other = first; other < end; ++other) at += b.lists[other] < s.entry;
    b.samples[at] = s.sample;
  }
}

}  // namespace cuda
}  // namespace dcn

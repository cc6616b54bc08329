// Samples listed by cell, the square between four input pixels that a sample lies in, so that an
// input pixel finds the samples it has a share in: those in the four cells around it.
//
// A bin is filled in any order, with integer atomics, and then put in the order of output pixels
// and taps by counting for each sample how many of its bin come before it. Bins of a row of cells
// lie one after the other, so the two to the left and right of a pixel are one range. For a bin of
// more than kLong samples, which would have to compare them quadratically often, a warp walks
// through all samples of the plane instead.
#pragma once

#include "host.cuh"

namespace dcn {
namespace cuda {

template <typename T>
struct alignas(16) BinnedSample {
  Sum<T> y, x, mask;
  int entry;  // tap << pixel_bits | output pixel of its image
};

// The bins of all samples of some images and deformable groups; a plane is one of each.
template <typename T, typename Index = int>
struct Bins {
  Geometry<Index> geometry;
  Inputs<T> inputs;
  int first_image, first_group, groups, planes;
  int pixel_bits;            // of an output pixel's number
  int* ends;                 // [planes][height + 1][width + 2]: where each bin starts and ends
  int* used;                 // entries listed so far; of long_bins
  int* arrivals;             // [planes][taps][out_pixels]: place in the bin as it fills, or -1
  int* lists;                // [entries]
  int* long_bins;            // elements of `ends`
  BinnedSample<T>* samples;  // [entries]

  static constexpr int kThreads = 256, kLong = 512;

  DCN_DEVICE int row_size() const { return static_cast<int>(geometry.width) + 2; }
  DCN_DEVICE int64_t plane_entries() const { return int64_t{geometry.taps} * geometry.out_pixels; }
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
    const int taps = static_cast<int>(geometry.taps);
    const int plane = rest / taps, tap = rest - plane * taps, image = plane / groups;
    Pixel<Index> p;
    p.image = first_image + image;
    p.row = pixel / geometry.out_width;
    p.column = pixel - p.row * geometry.out_width;
    const Tap<T, Index> raw(geometry, inputs, p, tap, first_group + plane - image * groups);
    const Sample<Sum<T>> s = raw.sample(geometry, inputs, p, Index{tap});
    const int entry = tap << pixel_bits | pixel;
    return {plane, entry, s.y0, s.x0, {s.y0 + s.ly, s.x0 + s.lx, raw.mask(inputs), entry}};
  }
  DCN_DEVICE int64_t entries() const { return planes * plane_entries(); }
};

template <typename T, typename Index>
__global__ void __launch_bounds__(256) count_bins_kernel(const Bins<T, Index> b) {
  await_earlier_kernels();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < b.entries(); i += step) {
    const auto s = b.locate(i);
    b.arrivals[i] = s.cell_y < -1 ? -1 : atomicAdd(b.start(s.plane, s.cell_y, s.cell_x), 1);
  }
}

// A warp replaces the counts of a row of cells by where they start.
template <typename T, typename Index>
__global__ void __launch_bounds__(256) place_bins_kernel(const Bins<T, Index> b) {
  await_earlier_kernels();
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
    if (count > b.kLong) {
      b.long_bins[atomicAdd(b.used + 1, 1)] = static_cast<int>(row) * b.row_size() + x;
    }
    base += total;
  }
}

template <typename T, typename Index>
__global__ void __launch_bounds__(256) fill_bins_kernel(const Bins<T, Index> b) {
  await_earlier_kernels();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < b.entries(); i += step) {
    const auto s = b.locate(i);
    if (s.cell_y < -1) continue;
    b.lists[*b.start(s.plane, s.cell_y, s.cell_x) + b.arrivals[i]] = s.entry;
  }
}

template <typename T, typename Index>
__global__ void __launch_bounds__(256) order_bins_kernel(const Bins<T, Index> b) {
  await_earlier_kernels();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < b.entries(); i += step) {
    const auto s = b.locate(i);
    if (s.cell_y < -1) continue;
    const int* const start = b.start(s.plane, s.cell_y, s.cell_x);
    const int first = start[0], end = start[1];
    if (end - first > b.kLong) continue;
    int at = first;
    for (int other = first; other < end; ++other) at += b.lists[other] < s.entry;
    b.samples[at] = s.sample;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32, warps = static_cast<int>(blockDim.x) / 32;
  for (int long_bin = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
       long_bin < b.used[1]; long_bin += static_cast<int>(gridDim.x) * warps) {
    const int* const start = b.ends + b.long_bins[long_bin];
    const int64_t plane = (start - b.ends) / ((b.geometry.height + 1) * b.row_size());
    int at = start[0];
    for (int64_t i = 0; i < b.plane_entries(); i += 32) {
      const bool valid = i + lane < b.plane_entries();
      const auto s = b.locate(plane * b.plane_entries() + i + (valid ? lane : 0));
      const bool inside = valid && s.cell_y >= -1 && b.start(s.plane, s.cell_y, s.cell_x) == start;
      const unsigned all = __ballot_sync(0xffffffffu, inside);
      if (inside) b.samples[at + __popc(all & ((1u << lane) - 1))] = s.sample;
      at += __popc(all);
    }
  }
}

inline int bits(int64_t count) {  // the fewest with 2^bits >= count
  int bits = 0;
  while (int64_t{1} << bits < count) ++bits;
  return bits;
}

// Whether BinnedSample::entry holds every tap and output pixel, and an int every bin of a plane.
inline bool bins_hold(const Problem& p) {
  return p.taps() << bits(p.out_pixels()) <= INT32_MAX &&
         (p.height + 1) * (p.width + 2) <= INT32_MAX;
}

// The memory of Bins for so many planes of a problem.
template <typename T>
struct BinMemory {
  int64_t planes, plane_ends, plane_entries;
  int* ends;  // with Bins::used before them
  int* arrivals;
  int* lists;
  int* long_bins;
  BinnedSample<T>* samples;

  static int64_t plane_bytes(const Problem& p) {
    const int64_t entries = p.taps() * p.out_pixels();
    return ((p.height + 1) * (p.width + 2) + entries / Bins<T>::kLong) * int64_t{sizeof(int)} +
           entries * static_cast<int64_t>(2 * sizeof(int) + sizeof(BinnedSample<T>));
  }

  void take(Arena& arena, const Problem& p, int64_t most_planes) {
    planes = most_planes;
    plane_ends = (p.height + 1) * (p.width + 2);
    plane_entries = p.taps() * p.out_pixels();
    ends = arena.take<int>(planes > 0 ? planes * plane_ends + 2 : 0);
    arrivals = arena.take<int>(planes * plane_entries);
    lists = arena.take<int>(planes * plane_entries);
    long_bins = arena.take<int>(planes * plane_entries / Bins<T>::kLong);
    samples = arena.take<BinnedSample<T>>(planes * plane_entries);
  }

  // The bins of some images and deformable groups.
  template <typename Index>
  Bins<T, Index> bins(const Problem& p, const Geometry<Index>& geometry, const Inputs<T>& inputs,
                      int64_t first_image, int64_t images, int64_t first_group,
                      int64_t groups) const {
    Bins<T, Index> b;
    b.geometry = geometry;
    b.inputs = inputs;
    b.first_image = static_cast<int>(first_image);
    b.first_group = static_cast<int>(first_group);
    b.groups = static_cast<int>(groups);
    b.planes = static_cast<int>(images * groups);
    b.pixel_bits = bits(p.out_pixels());
    b.used = ends;
    b.ends = ends + 2;
    b.arrivals = arrivals;
    b.lists = lists;
    b.long_bins = long_bins;
    b.samples = samples;
    return b;
  }

  template <typename Index>
  void fill(Queue& queue, const Bins<T, Index>& b) const {
    constexpr int kThreads = Bins<T>::kThreads;
    const int64_t blocks = std::min<int64_t>(ceil_div(b.planes * plane_entries, kThreads), 4096);
    const int64_t rows = b.planes * (plane_ends / (b.geometry.width + 2));
    queue.clear(ends, (b.planes * plane_ends + 2) * int64_t{sizeof(int)});
    queue.run<false>(count_bins_kernel<T, Index>, blocks, kThreads, 0, b);
    queue.run<true>(place_bins_kernel<T, Index>, ceil_div(32 * rows, kThreads), kThreads, 0, b);
    queue.run<false>(fill_bins_kernel<T, Index>, blocks, kThreads, 0, b);
    queue.run<true>(order_bins_kernel<T, Index>, blocks, kThreads, 0, b);
  }
};

}  // namespace cuda
}  // namespace dcn

// The instructions that only some x86 processors have, as plain C++: every engine runs anywhere.
// Stands in for what isa-inl.h defines with assembly, and is included by it.
//
// Products of bfloat16 numbers are as Intel's manual defines them: sums in float32, rounded to
// nearest even; subnormal inputs and results count as 0. What the processor would refuse with an
// invalid-opcode exception, such as tiles whose shapes do not agree, ends the process.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace dcn {
namespace emulation {

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "emulation: %s\n", message);
  std::abort();
}

__attribute__((always_inline)) inline float flush(float value) {
  return value < 0x1p-126f && value > -0x1p-126f ? value * 0.0f : value;
}

__attribute__((always_inline)) inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return flush(value);
}

inline uint16_t to_bfloat16(float value) {
  const float flushed = flush(value);
  uint32_t bits;
  std::memcpy(&bits, &flushed, sizeof(bits));
  if (flushed != flushed) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float multiply_add(uint16_t a, uint16_t b, float sum) {
  return flush(flush(sum) + from_bfloat16(a) * from_bfloat16(b));
}

// AMX. The configuration has the processor's form.
struct Tiles {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
  } shapes;
  uint8_t data[8][16][64];
};
inline thread_local Tiles tiles;

inline void set_tile_shapes(const void* shapes) {
  std::memcpy(&tiles.shapes, shapes, sizeof(tiles.shapes));
  if (tiles.shapes.palette != 1) fail("a tile configuration of an unknown palette");
  for (int i = 0; i < 8; ++i) {
    const int rows = tiles.shapes.rows[i], bytes = tiles.shapes.column_bytes[i];
    if (rows > 16 || bytes > 64 || (rows == 0) != (bytes == 0)) fail("a tile of a wrong shape");
  }
  std::memset(tiles.data, 0, sizeof(tiles.data));
}

inline void release_tiles() { tiles.shapes = {}; }

inline void require_tile(int tile) {
  if (tiles.shapes.rows[tile] == 0) fail("a tile that is not configured");
}

inline void load_tile(int tile, const void* data, int64_t stride) {
  require_tile(tile);
  std::memset(tiles.data[tile], 0, sizeof(tiles.data[tile]));
  for (int row = 0; row < tiles.shapes.rows[tile]; ++row) {
    std::memcpy(tiles.data[tile][row], static_cast<const char*>(data) + row * stride,
                tiles.shapes.column_bytes[tile]);
  }
}

inline void store_tile(int tile, void* data, int64_t stride) {
  require_tile(tile);
  for (int row = 0; row < tiles.shapes.rows[tile]; ++row) {
    std::memcpy(static_cast<char*>(data) + row * stride, tiles.data[tile][row],
                tiles.shapes.column_bytes[tile]);
  }
}

// tdpbf16ps: products of even and of odd places are summed apart, then all is added to the sum.
__attribute__((optimize("O3"))) inline void multiply_tile(int sum, int left, int right) {
  for (const int tile : {sum, left, right}) require_tile(tile);
  const auto& shapes = tiles.shapes;
  const int rows = shapes.rows[sum], columns = shapes.column_bytes[sum] / 4;
  const int pairs = shapes.column_bytes[left] / 4;
  if (shapes.rows[left] != rows || shapes.rows[right] != pairs ||
      shapes.column_bytes[right] != shapes.column_bytes[sum]) {
    fail("tiles whose shapes do not agree");
  }
  float right_values[2][16][16];  // [even or odd][pair][column]
  for (int k = 0; k < pairs; ++k) {
    uint16_t places[16][2];
    std::memcpy(places, tiles.data[right][k], sizeof(places));
    for (int column = 0; column < 16; ++column) {
      for (int odd : {0, 1}) right_values[odd][k][column] = from_bfloat16(places[column][odd]);
    }
  }
  for (int row = 0; row < rows; ++row) {
    uint16_t left_places[16][2];
    std::memcpy(left_places, tiles.data[left][row], sizeof(left_places));
    float sums[2][16] = {}, total[16];
    for (int odd : {0, 1}) {
      for (int k = 0; k < pairs; ++k) {
        const float value = from_bfloat16(left_places[k][odd]);
        for (int column = 0; column < 16; ++column) {
          sums[odd][column] = flush(sums[odd][column] + value * right_values[odd][k][column]);
        }
      }
    }
    std::memcpy(total, tiles.data[sum][row], sizeof(total));
    for (int column = 0; column < columns; ++column) {
      total[column] = flush(flush(total[column]) + flush(sums[0][column] + sums[1][column]));
    }
    std::memcpy(tiles.data[sum][row], total, sizeof(total));
  }
}

}  // namespace emulation

namespace cpu {
namespace DCN_ISA {

DCN_INLINE Vector<uint32_t, 16> widen_lanes(Vector<uint16_t, 16> v) {
  return __builtin_convertvector(v, Vector<uint32_t, 16>);
}

// vcvtneps2bf16
template <int kLanes>
DCN_INLINE Vector<uint16_t, kLanes> narrow_lanes(Vector<float, kLanes> v) {
  Vector<uint16_t, kLanes> result;
  for (int i = 0; i < kLanes; ++i) result[i] = emulation::to_bfloat16(v[i]);
  return result;
}
// vcvtne2ps2bf16
DCN_INLINE Vector<uint16_t, 32> narrow_lanes(Vector<float, 16> first, Vector<float, 16> second) {
  Vector<uint16_t, 32> result;
  for (int i = 0; i < 16; ++i) {
    result[i] = emulation::to_bfloat16(first[i]);
    result[16 + i] = emulation::to_bfloat16(second[i]);
  }
  return result;
}

// vpermw
DCN_INLINE Vector<uint16_t, 32> permute_lanes(Vector<uint16_t, 32> v, Vector<uint16_t, 32> order) {
  Vector<uint16_t, 32> result;
  for (int i = 0; i < 32; ++i) result[i] = v[order[i] & 31];
  return result;
}

// vdpbf16ps: the product of the upper halves is added first.
DCN_INLINE void add_pair_products(Vector<float, 16>& sum, Vector<uint32_t, 16> left,
                                  Vector<uint32_t, 16> right) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t a = left[i], b = right[i];
    const float high = emulation::multiply_add(static_cast<uint16_t>(a >> 16),
                                               static_cast<uint16_t>(b >> 16), sum[i]);
    sum[i] = emulation::multiply_add(static_cast<uint16_t>(a), static_cast<uint16_t>(b), high);
  }
}

#ifdef DCN_AMX

DCN_INLINE void set_tile_shapes(const TileShapes& shapes) { emulation::set_tile_shapes(&shapes); }
template <int kTile>
DCN_INLINE void load_tile(const void* data, int64_t stride) {
  emulation::load_tile(kTile, data, stride);
}
template <int kTile>
DCN_INLINE void store_tile(void* data, int64_t stride) {
  emulation::store_tile(kTile, data, stride);
}
template <int kSum, int kLeft, int kRight>
DCN_INLINE void multiply_tile() {
  emulation::multiply_tile(kSum, kLeft, kRight);
}
DCN_INLINE void release_tiles() { emulation::release_tiles(); }

#endif  // DCN_AMX

}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

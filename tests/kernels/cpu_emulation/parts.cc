// Tests of the CPU kernels' parts, compiled once for each engine, against plain scalar code.
//
// Prints the first differences of each part and returns how many there are. Products are tested on
// small integers, whose sums are exact in any order; only split float32 values have a tolerance.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#if defined(DCN_AMX) && !defined(DCN_CPU_EMULATION)
#include "cpu/amx_tiles.h"
#endif
#include "cpu/forward-inl.h"
#ifdef DCN_SPLIT
#include "cpu/split-inl.h"
#endif

namespace dcn {
namespace cpu {
namespace DCN_ISA {
namespace {

int failures = 0;

template <typename... Where>
void check(bool holds, const char* format, Where... where) {
  if (holds || ++failures > 20) return;
  std::printf(format, where...);
  std::printf("\n");
}

std::mt19937 generator(0);

int64_t random_int(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

template <typename T>
std::vector<T> random_ints(int64_t count, int64_t largest = 8) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(random_int(-largest, largest));
  return values;
}

// ---------------------------------------------------------------------------------- half types

// The value of a number of 1, `exponent_bits` and `mantissa_bits`, from the format's definition.
double decode(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t exponent = bits >> mantissa_bits & ((1u << exponent_bits) - 1);
  const double fraction = bits & ((1u << mantissa_bits) - 1);
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1u << exponent_bits) - 1) return fraction > 0 ? NAN : sign * INFINITY;
  const int normal = exponent > 0;
  return sign * std::ldexp(fraction + normal * std::ldexp(1, mantissa_bits),
                           static_cast<int>(exponent) + !normal - bias - mantissa_bits);
}

bool same(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

// Every number of the type, to float and back, and what lies half way between two, and beside it.
template <typename Half>
void test_half(DataType dtype, int exponent_bits, int mantissa_bits) {
  std::vector<Half> all(1 << 16), back(1 << 16);
  std::vector<float> values(1 << 16);
  for (uint32_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  const int64_t count = static_cast<int64_t>(all.size());
  const float* const read = read_row(all.data(), dtype, 0, count, values.data());
  write_row(read, count, back.data(), dtype, 0);
  for (uint32_t i = 0; i < all.size(); ++i) {
    check(same(read[i], decode(i, exponent_bits, mantissa_bits)), "%#x is read as %g", i, read[i]);
    const bool nan = std::isnan(read[i]);
    check(nan ? std::isnan(decode(back[i].bits, exponent_bits, mantissa_bits)) : back[i].bits == i,
          "%#x comes back as %#x", i, static_cast<uint32_t>(back[i].bits));
  }
  // Magnitudes sort as their bits do; the one after the largest finite number is infinite.
  const uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  for (const uint32_t sign : {0u, 0x8000u}) {
    for (uint32_t i = 0; i < infinity; ++i) {
      const double low = decode(i, exponent_bits, mantissa_bits);
      const double step = std::fabs(decode(1 | (i & infinity), exponent_bits, mantissa_bits) -
                                    decode(i & infinity, exponent_bits, mantissa_bits));
      const float half = static_cast<float>(low + step / 2);
      if (static_cast<double>(half) != low + step / 2) continue;  // below float's own numbers
      const float near[3] = {std::nextafterf(half, 0), half, std::nextafterf(half, INFINITY)};
      const uint32_t expected[3] = {i, i + (i & 1), i + 1};
      float row[3];
      Half rounded[3];
      for (int j = 0; j < 3; ++j) row[j] = sign ? -near[j] : near[j];
      write_row(row, 3, rounded, dtype, 0);
      for (int j = 0; j < 3; ++j) {
        check(rounded[j].bits == (expected[j] | sign), "%.9g rounds to %#x, not %#x", row[j],
              static_cast<uint32_t>(rounded[j].bits), expected[j] | sign);
      }
    }
  }
}

// ------------------------------------------------------------------------------------- layouts

template <int kRowBlock, int kColumnBlock, typename T>
void test_transpose() {
  for (const int64_t rows : {1, 3, 4, 7, 8, 16, 21, 33}) {
    for (const int64_t columns : {1, 2, 4, 5, 8, 19, 32, 35}) {
      const std::vector<T> source = random_ints<T>(rows * columns, 1000);
      std::vector<T> target(rows * columns);
      transpose<kRowBlock, kColumnBlock>(
          rows, columns, [&](int64_t r) { return source.data() + r * columns; }, target.data(),
          rows);
      for (int64_t i = 0; i < rows * columns; ++i) {
        check(target[i % columns * rows + i / columns] == source[i],
              "transpose of %d x %d: wrong at %d", int(rows), int(columns), int(i));
      }
    }
  }
}

// x to pixels of channels side by side and back, whole and in part, in each layout in memory.
template <typename T, typename Stored>
void test_channels_last(DataType dtype) {
  for (const bool last : {false, true}) {
    for (const int64_t channels : {1, 5, 8, 17, 33}) {
      Problem p{};
      p.batch = 2;
      p.channels = channels;
      p.height = 7;
      p.width = 9;
      p.dtype = dtype;
      p.channels_last = last;
      const int64_t pixels = p.in_pixels(), size = p.batch * channels * pixels;
      const std::vector<float> values = random_ints<float>(size, 100);
      std::vector<Stored> x(size), back(size);
      write_row(values.data(), size, x.data(), dtype, 0);
      const auto at = [&](int64_t image, int64_t c, int64_t pixel) {
        return last ? (image * pixels + pixel) * channels + c
                    : (image * channels + c) * pixels + pixel;
      };
      const int64_t first = channels / 3, part = channels - first;
      for (int64_t image = 0; image < p.batch; ++image) {
        for (const int64_t pixel : {0, 11}) {
          const int64_t count = smaller(kPixelBlock, pixels - pixel);
          std::vector<T> moved(count * part);
          const Region region{image, first, part, pixel, count};
          to_channels_last(like_x<const void>(p, x.data()), region, moved.data());
          for (int64_t i = 0; i < count * part; ++i) {
            const float expected = values[at(image, first + i % part, pixel + i / part)];
            check(static_cast<float>(moved[i]) == expected,
                  "to_channels_last, %d channels: wrong at %d", int(channels), int(i));
          }
          if constexpr (!std::is_same_v<T, BFloat16>) {
            from_channels_last(moved.data(), part, region, like_x<void>(p, back.data()));
            for (int64_t i = 0; i < count * part; ++i) {
              const int64_t index = at(image, first + i % part, pixel + i / part);
              check(std::memcmp(&back[index], &x[index], sizeof(Stored)) == 0,
                    "from_channels_last, %d channels: wrong at %d", int(channels), int(i));
            }
          }
        }
      }
    }
  }
}

// ------------------------------------------------------------------------------------- products

template <typename T>
void check_product(const std::vector<T>& a, const std::vector<T>& b, const std::vector<T>& before,
                   const std::vector<T>& c, int64_t rows, int64_t columns, int64_t depth,
                   double tolerance) {
  for (int64_t i = 0; i < rows * columns; ++i) {
    double sum = before[i], scale = std::fabs(sum);
    for (int64_t k = 0; k < depth; ++k) {
      const double term = double(a[i / columns * depth + k]) * b[k * columns + i % columns];
      sum += term;
      scale += std::fabs(term);
    }
    check(std::fabs(c[i] - sum) <= tolerance * scale, "product %d x %d x %d at %d: %.9g, not %.9g",
          int(rows), int(depth), int(columns), int(i), double(c[i]), sum);
  }
}

constexpr int64_t kDepths[] = {1, 2, 7, 32, 45};

template <typename T>
void test_vector_product() {
  using Product = VectorProduct<T>;
  for (int64_t rows = 1; rows <= 2 * kMaxRows + 1; ++rows) {
    for (int64_t step = 1; step <= 5; ++step) {
      for (const int64_t depth : kDepths) {
        const int64_t columns = step * Product::kColumnStep;
        const auto a = random_ints<T>(rows * depth), b = random_ints<T>(depth * columns);
        const auto before = random_ints<T>(rows * columns);
        auto c = before;
        multiply<T>(rows, columns, depth, {a.data(), depth, 1}, {b.data(), columns},
                    {c.data(), columns});
        check_product(a, b, before, c, rows, columns, depth, 0);
        // Packed in panels, the rows that are wanted being the last ones.
        const int64_t above = 3, packed_depth = above + depth;
        std::vector<T> packed(packed_depth * columns, T(99));
        for (int64_t k = 0; k < depth; ++k) {
          for (int64_t j = 0; j < columns; ++j) {
            const int64_t panel = j / Product::kPanel * Product::kPanel;
            const int64_t width = smaller(Product::kPanel, columns - panel);
            packed[panel * packed_depth + (above + k) * width + j - panel] = b[k * columns + j];
          }
        }
        c = before;
        Product::multiply(rows, columns, depth, Product::left(a.data(), depth, 0),
                          {packed.data(), packed_depth, above}, {c.data(), columns});
        check_product(a, b, before, c, rows, columns, depth, 0);
        // In rows that are shorter than a vector, the last of which is followed by something.
        if (step > 1) continue;
        const int64_t width = 1 + rows % (columns - 1);
        packed.assign(packed_depth * width + columns - width, T(99));
        for (int64_t k = 0; k < depth; ++k) {
          for (int64_t j = 0; j < width; ++j) packed[(above + k) * width + j] = b[k * columns + j];
        }
        const auto whole = c;
        c = before;
        Product::multiply(rows, columns, depth, Product::left(a.data(), depth, 0),
                          {packed.data(), packed_depth, above, width}, {c.data(), columns});
        for (int64_t i = 0; i < rows * columns; ++i) {
          if (i % columns >= width) c[i] = whole[i];
        }
        check_product(a, b, before, c, rows, columns, depth, 0);
      }
    }
  }
}

#ifdef DCN_SPLIT

// Terms add up to the value, and each holds what 8 bits can of the rest.
void test_terms() {
  for (int i = 0; i < 20000; ++i) {
    const float value = std::ldexp(static_cast<float>(random_int(-(1 << 24), 1 << 24)),
                                   static_cast<int>(random_int(-40, 40)));
    Vector<float, 16> rest = Vector<float, 16>{} + value;
    double sum = 0;
    for (int term = 0; term < 3; ++term) {
      const float before = rest[5];
      const auto taken = take_term<16>(rest);
      const float part = taken[5];
      check((float_to_bits(part) & 0xffffu) == 0, "term %d of %.9g has more than 8 bits", term,
            value);
      check(std::fabs(before - part) <= std::ldexp(std::fabs(before), -8),
            "term %d of %.9g leaves too much", term, value);
      sum += part;
    }
    check(sum == value, "the terms of %.9g add up to %.9g", value, sum);
  }
}

template <int kTerms, typename Pixel>
void test_split_product() {
  using Product = SplitProduct<kTerms, Pixel>;
  [[maybe_unused]] const typename Product::Scope scope;
  const int64_t largest = kTerms == 1 ? 8 : (1 << 24) - 1;
  for (int64_t rows = 1; rows <= 70; rows += rows < 34 ? 1 : 13) {
    for (int64_t step = 1; step <= 5; ++step) {
      for (const int64_t depth : kDepths) {
        const int64_t columns = step * Product::kColumnStep;
        const int64_t padded = round_up(depth, Product::kDepthStep);
        const auto a = random_ints<float>(rows * depth, largest);
        const auto b = random_ints<float>(depth * columns, largest);
        const auto before = random_ints<float>(rows * columns, largest);
        // The left operand's terms, one after the other, zeros behind the last column.
        const int64_t term_stride = rows * padded;
        std::vector<BFloat16> left(kTerms * term_stride, BFloat16{0});
        for (int64_t i = 0; i < rows * depth; ++i) {
          float rest = a[i];
          for (int term = 0; term < kTerms; ++term) {
            const BFloat16 part(rest);
            left[term * term_stride + i / depth * padded + i % depth] = part;
            rest -= part;
          }
        }
        std::vector<BFloat16> packed(kTerms * padded * columns);
        for (int64_t column = 0; column < columns; column += Product::kPanel) {
          Product::pack(depth, smaller(Product::kPanel, columns - column), b.data() + column,
                        columns, packed.data() + kTerms * column * padded);
        }
        auto c = before;
        Product::multiply(rows, columns, padded, Product::left(left.data(), padded, term_stride),
                          {packed.data(), padded, 0}, {c.data(), columns});
        // Three products of terms below 2^-8 * 2^-16 each are left out, sums are in float32.
        const double tolerance =
            kTerms == 1 ? 0 : std::ldexp(4 + 6 * std::sqrt(double(depth)), -24);
        check_product(a, b, before, c, rows, columns, depth, tolerance);
      }
    }
  }
}

#endif

// ---------------------------------------------------------------------------------------- team

// Every task is run once, and what it writes is seen by all threads after it.
void test_team(int threads) {
  constexpr int64_t kTasks = 37, kRounds = 200;
  std::vector<int64_t> done(kTasks, 0);
  int64_t wrong = 0;
  run_team(threads, [&](Team& team) {
    for (int64_t round = 0; round < kRounds; ++round) {
      team.for_each(kTasks, [&](int64_t task) { done[task] += 1; });
      for (const int64_t times : done) {
        if (times != round + 1) __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
      }
      team.for_each(0, [](int64_t) {});  // nobody goes on while others still look
    }
  });
  check(wrong == 0, "a team of %d threads: %d tasks not run once", threads, int(wrong));
}

void run(const char* name, void (*test)()) {
  const int before = failures;
  test();
  std::printf("%s: %s\n", name, failures == before ? "ok" : "WRONG");
}

}  // namespace
}  // namespace DCN_ISA
}  // namespace cpu
}  // namespace dcn

int main() {
  using namespace dcn;
  using namespace dcn::cpu::DCN_ISA;
#if defined(DCN_AMX) && !defined(DCN_CPU_EMULATION)
  check(dcn::cpu::ask_for_tiles(), "the system gives no tile registers");
#endif
  run("float16", [] { test_half<Float16>(DataType::kFloat16, 5, 10); });
  run("bfloat16", [] { test_half<BFloat16>(DataType::kBFloat16, 8, 7); });
  run("transposes", [] {
    test_transpose<8, 16, float>();
    test_transpose<16, 8, float>();
    test_transpose<16, 8, double>();
  });
  run("layouts", [] {
    test_channels_last<float, float>(DataType::kFloat32);
    test_channels_last<float, uint16_t>(DataType::kFloat16);
    test_channels_last<float, uint16_t>(DataType::kBFloat16);
    test_channels_last<double, double>(DataType::kFloat64);
    test_channels_last<BFloat16, uint16_t>(DataType::kBFloat16);
  });
  run("vector products", [] {
    test_vector_product<float>();
    test_vector_product<double>();
  });
#ifdef DCN_SPLIT
  run("terms", test_terms);
  run("products of bfloat16", test_split_product<1, BFloat16>);
#ifdef DCN_AMX
  run("products of terms", test_split_product<3, float>);
#endif
#endif
  run("team", [] {
    for (const int threads : {1, 2, 3, 5}) test_team(threads);
  });
  return failures > 0;
}

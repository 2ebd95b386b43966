// Pillow's antialiased resize of a box of an 8-bit RGB image, bit for bit: two passes in fixed point, each rounded and
// clipped to 8 bits. Weights (22 fractional bits) and the order of the passes are Pillow's, computed by the caller.
//
// The vertical pass runs along whole rows. With AVX2 the horizontal pass takes four neighbouring pixels at a time. Its
// products have 16 bits, two per instruction, so each weight is split: w = high * 2^15 + low. Partial sums may wrap
// around, because the whole sum fits into 32 bits. Without AVX2 it takes one pixel at a time, its colours side by side.

#include "crops.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "processor.h"

namespace {

constexpr int kFractionBits = 22;  // as _FRACTION_BITS in resize.py
constexpr int kHalf = 1 << (kFractionBits - 1);  // rounds to the nearest level
constexpr int kChannels = 3;
constexpr int64_t kSpareBytes = 64;  // that the horizontal pass may read behind a row

inline uint8_t clipped(int32_t sum) {
  const int32_t value = sum >> kFractionBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// The weights of one direction: `taps` for each target pixel, for the source pixels from `first` on, then zeros.
struct Side {
  const int32_t* first;
  const int32_t* weights;
  int taps;
};

#if CONVNEXT_AVX2

constexpr int kTogether = 4;  // pixels of a horizontal step
constexpr int kLowBits = 15;  // of a split weight

// The weights of a horizontal step: pixels 0 and 1 in the first half, 2 and 3 in the second, for R, G, B and unused.
struct alignas(32) Step {
  int16_t high[16];
  int16_t low[16];
};

// Weights in the order of the steps; zeros fill each target up to a whole number of steps.
std::vector<Step> spread(const Side& side, int targets, int steps) {
  std::vector<Step> all(static_cast<size_t>(targets) * steps);
  for (int x = 0; x < targets; ++x) {
    for (int t = 0; t < side.taps; ++t) {
      const int32_t weight = side.weights[x * side.taps + t];
      Step& step = all[static_cast<size_t>(x) * steps + t / kTogether];
      const int lane = t % kTogether / 2 * 8 + t % 2;
      for (int c = 0; c < kChannels; ++c) {
        step.high[lane + 2 * c] = static_cast<int16_t>(weight >> kLowBits);
        step.low[lane + 2 * c] = static_cast<int16_t>(weight & ((1 << kLowBits) - 1));
      }
    }
  }
  return all;
}

void resize_row(const uint8_t* in, uint8_t* out, int width, const int32_t* first, const Step* weights, int steps) {
  // Twelve bytes become R R G G B B of pixels 0 and 1, and of pixels 2 and 3, each widened to 16 bits.
  const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  for (int x = 0; x < width; ++x) {
    const uint8_t* pixels = in + static_cast<int64_t>(first[x]) * kChannels;
    __m256i high = _mm256_setzero_si256(), low = high;
    for (int s = 0; s < steps; ++s, ++weights, pixels += kTogether * kChannels) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels));
      const __m256i values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pairs);
      const __m256i* weight = reinterpret_cast<const __m256i*>(weights);
      high = _mm256_add_epi32(high, _mm256_madd_epi16(values, _mm256_load_si256(weight)));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(values, _mm256_load_si256(weight + 1)));
    }
    const __m256i both = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(kHalf)), kFractionBits);
    const __m128i packed = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);  // saturates, which clips
    const uint32_t pixel = static_cast<uint32_t>(_mm_cvtsi128_si32(packed));
    std::memcpy(out + x * kChannels, &pixel, kChannels);
  }
}

// The horizontal pass over a row of `width` target pixels.
class Across {
 public:
  Across(const Side& side, int width)
      : first_(side.first), width_(width), steps_((side.taps + kTogether - 1) / kTogether), weights_(spread(side, width, steps_)) {}
  void operator()(const uint8_t* in, uint8_t* out) const { resize_row(in, out, width_, first_, weights_.data(), steps_); }

 private:
  const int32_t* first_;
  int width_, steps_;
  std::vector<Step> weights_;
};

#else

typedef uint8_t Bytes __attribute__((vector_size(4)));
typedef int32_t Sums __attribute__((vector_size(16)));

// The horizontal pass over a row of `width` target pixels. The fourth byte of a pixel is its neighbour's, and ignored.
class Across {
 public:
  Across(const Side& side, int width) : side_(side), width_(width) {}
  void operator()(const uint8_t* in, uint8_t* out) const {
    const int32_t* weights = side_.weights;
    for (int x = 0; x < width_; ++x, out += kChannels) {
      const uint8_t* pixels = in + static_cast<int64_t>(side_.first[x]) * kChannels;
      Sums sums = Sums{} + kHalf;
      for (int t = 0; t < side_.taps; ++t, ++weights, pixels += kChannels) {
        Bytes bytes;
        std::memcpy(&bytes, pixels, sizeof bytes);
        sums += __builtin_convertvector(bytes, Sums) * *weights;
      }
      for (int c = 0; c < kChannels; ++c) out[c] = clipped(sums[c]);
    }
  }

 private:
  const Side& side_;
  int width_;
};

#endif

// The weighted sum of `taps` rows of `bytes` bytes, `stride` apart, as one row.
void blend_rows(const uint8_t* rows, int64_t stride, int64_t bytes, uint8_t* out, const int32_t* weights, int taps) {
  constexpr int kBlock = 64;
  int64_t begin = 0;
  for (; begin + kBlock <= bytes; begin += kBlock) {
    int32_t sums[kBlock];
    for (int i = 0; i < kBlock; ++i) sums[i] = kHalf;
    for (int t = 0; t < taps; ++t) {
      const uint8_t* row = rows + t * stride + begin;
      for (int i = 0; i < kBlock; ++i) sums[i] += row[i] * weights[t];
    }
    for (int i = 0; i < kBlock; ++i) out[begin + i] = clipped(sums[i]);
  }
  for (; begin < bytes; ++begin) {
    int32_t sum = kHalf;
    for (int t = 0; t < taps; ++t) sum += rows[t * stride + begin] * weights[t];
    out[begin] = clipped(sum);
  }
}

struct Picture {
  const uint8_t* pixels;
  int64_t stride;
  int height, width;
};

void vertical_first(const Picture& in, uint8_t* out, int height, int width, const Side& x, const Side& y) {
  const Across across(x, width);
  const int64_t bytes = static_cast<int64_t>(in.width) * kChannels;
  std::vector<uint8_t> row(bytes + kSpareBytes);
  for (int i = 0; i < height; ++i, out += static_cast<int64_t>(width) * kChannels) {
    const uint8_t* rows = in.pixels + y.first[i] * in.stride;
    blend_rows(rows, in.stride, bytes, x.taps ? row.data() : out, y.weights + static_cast<int64_t>(i) * y.taps, y.taps);
    if (x.taps) across(row.data(), out);
  }
}

void horizontal_first(const Picture& in, uint8_t* out, int height, int width, const Side& x, const Side& y) {
  const Across across(x, width);
  const int64_t bytes = static_cast<int64_t>(width) * kChannels;
  const int top = y.taps ? y.first[0] : 0;
  const int bottom = y.taps ? y.first[height - 1] + y.taps : in.height;
  std::vector<uint8_t> row(in.width * kChannels + kSpareBytes);
  std::vector<uint8_t> between(y.taps ? (bottom - top) * bytes : 0);
  uint8_t* narrow = y.taps ? between.data() : out;
  for (int i = top; i < bottom; ++i) {
    std::memcpy(row.data(), in.pixels + i * in.stride, static_cast<size_t>(in.width) * kChannels);
    across(row.data(), narrow + (i - top) * bytes);
  }
  for (int i = 0; y.taps && i < height; ++i) {
    const uint8_t* rows = between.data() + (y.first[i] - top) * bytes;
    blend_rows(rows, bytes, bytes, out + i * bytes, y.weights + static_cast<int64_t>(i) * y.taps, y.taps);
  }
}

}  // namespace

extern "C" int convnext_resize(const uint8_t* in, int64_t in_stride, int in_height, int in_width, uint8_t* out,
                               int height, int width, int is_vertical_first, const int32_t* first_x,
                               const int32_t* weights_x, int taps_x, const int32_t* first_y, const int32_t* weights_y,
                               int taps_y) try {
  const Picture picture{in, in_stride, in_height, in_width};
  const Side x{first_x, weights_x, taps_x}, y{first_y, weights_y, taps_y};
  const int64_t bytes = static_cast<int64_t>(width) * kChannels;
  if (!taps_x && !taps_y) {
    for (int i = 0; i < height; ++i) std::memcpy(out + i * bytes, in + i * in_stride, static_cast<size_t>(bytes));
  } else if (taps_y && (is_vertical_first || !taps_x)) {
    vertical_first(picture, out, height, width, x, y);
  } else {
    horizontal_first(picture, out, height, width, x, y);
  }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// Pillow's affine transform of an 8-bit RGB image with bicubic sampling, bit for bit: cubic convolution with a = -1 in
// doubles, beyond the border the nearest pixel counts, places outside of the image get the fill colour.
//
// The three colours of a pixel and an empty one are a vector. No product may be fused with a sum, since Pillow's are
// not.

#include "pixel_ops.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace {

constexpr int kChannels = 3;

inline __m256d cubic(__m256d v1, __m256d v2, __m256d v3, __m256d v4, __m256d share) {
  const __m256d slope = v3 - v1;
  const __m256d bend = (v1 - v2) + (v1 - v2) + v3 - v4;
  const __m256d twist = v2 - v1 - v3 + v4;
  return v2 + rounded(share * (slope + rounded(share * (bend + rounded(share * twist)))));
}

struct Picture {
  const uint32_t* pixels;  // R, G, B and an empty byte
  int height, width;
};

inline int between(int value, int count) { return value < 0 ? 0 : value < count ? value : count - 1; }

inline __m256d colour(const uint32_t pixel) {
  return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(static_cast<int>(pixel))));
}

inline __m256d along_row(const uint32_t* row, const int* columns, double share) {
  if (share == 0.0) return colour(row[columns[1]]);
  return cubic(colour(row[columns[0]]), colour(row[columns[1]]), colour(row[columns[2]]), colour(row[columns[3]]),
               _mm256_set1_pd(share));
}

// The colour at x, y, where a pixel's centre is at a half.
inline __m256d sample(const Picture& in, double x, double y) {
  const int left = static_cast<int>(std::floor(x - 0.5)), top = static_cast<int>(std::floor(y - 0.5));
  const double across = x - 0.5 - left, down = y - 0.5 - top;
  int columns[4];
  for (int i = 0; i < 4; ++i) columns[i] = between(left - 1 + i, in.width);
  if (down == 0.0) return along_row(in.pixels + static_cast<int64_t>(top) * in.width, columns, across);
  __m256d lines[4];
  for (int j = 0; j < 4; ++j) {
    lines[j] = along_row(in.pixels + static_cast<int64_t>(between(top - 1 + j, in.height)) * in.width, columns, across);
  }
  return cubic(lines[0], lines[1], lines[2], lines[3], _mm256_set1_pd(down));
}

}  // namespace

void affine(const uint8_t* in, uint8_t* out, int height, int width, const double* m, const uint8_t* fill) {
  const int64_t pixels = static_cast<int64_t>(height) * width;
  std::vector<uint32_t> wide(pixels);
  for (int64_t i = 0; i < pixels; ++i) std::memcpy(&wide[i], in + i * kChannels, kChannels);
  const Picture picture{wide.data(), height, width};
  const __m256d top = _mm256_set1_pd(255.0);
  for (int row = 0; row < height; ++row) {
    for (int column = 0; column < width; ++column, out += kChannels) {
      const double at_x = column + 0.5, at_y = row + 0.5;
      const double x = rounded(m[0] * at_x) + rounded(m[1] * at_y) + m[2];
      const double y = rounded(m[3] * at_x) + rounded(m[4] * at_y) + m[5];
      if (!(x >= 0.0 && x < width && y >= 0.0 && y < height)) {
        std::memcpy(out, fill, kChannels);
        continue;
      }
      const __m256d levels = _mm256_min_pd(_mm256_max_pd(sample(picture, x, y), _mm256_setzero_pd()), top);
      const __m128i whole = _mm256_cvttpd_epi32(levels);
      const __m128i bytes = _mm_packus_epi16(_mm_packus_epi32(whole, whole), whole);
      const uint32_t pixel = static_cast<uint32_t>(_mm_cvtsi128_si32(bytes));
      std::memcpy(out, &pixel, kChannels);
    }
  }
}

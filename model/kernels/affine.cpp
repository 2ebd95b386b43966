// Pillow's affine transform of an 8-bit RGB image with bicubic sampling, bit for bit: cubic convolution with a = -1 in
// doubles. Taps beyond the border take the nearest pixel; output pixels outside of the image get the fill colour.
//
// The lanes of a vector are neighbours in a row of the output. No product may be fused with a sum: Pillow's are not, and
// a fused one rounds differently.

#include "pixel_ops.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int kChannels = 3;
// Output pixels at a time: doubles, as in Pillow, so half as many as floats fit a vector.
#if CONVNEXT_AVX2 && defined(__AVX512F__)
constexpr int kPixels = 8;
#else
constexpr int kPixels = 4;
#endif

typedef double Doubles __attribute__((vector_size(8 * kPixels)));
typedef int64_t Mask __attribute__((vector_size(8 * kPixels)));
typedef int32_t Ints __attribute__((vector_size(4 * kPixels)));

#if !CONVNEXT_AVX2
inline Ints whole(Doubles x) { return __builtin_convertvector(x, Ints); }
inline Doubles real(Ints x) { return __builtin_convertvector(x, Doubles); }
inline Ints lanes(Mask x) { return __builtin_convertvector(x, Ints); }
// Three bytes from each offset: a pixel.
inline Ints gather(const uint8_t* bytes, Ints offsets) {
  Ints pixels;
  for (int i = 0; i < kPixels; ++i) {
    const uint8_t* pixel = bytes + offsets[i];
    pixels[i] = pixel[0] | pixel[1] << 8 | pixel[2] << 16;
  }
  return pixels;
}
#elif defined(__AVX512F__)
inline Ints whole(Doubles x) { return (Ints)_mm512_cvttpd_epi32((__m512d)x); }
inline Doubles real(Ints x) { return (Doubles)_mm512_cvtepi32_pd((__m256i)x); }
inline Ints lanes(Mask x) { return (Ints)_mm512_cvtepi64_epi32((__m512i)x); }
// Four bytes from each offset: a pixel, and one byte that is ignored.
inline Ints gather(const uint8_t* bytes, Ints offsets) { return (Ints)_mm256_i32gather_epi32((const int*)bytes, (__m256i)offsets, 1); }
#else
inline Ints whole(Doubles x) { return (Ints)_mm256_cvttpd_epi32((__m256d)x); }
inline Doubles real(Ints x) { return (Doubles)_mm256_cvtepi32_pd((__m128i)x); }
inline Ints lanes(Mask x) { return __builtin_convertvector(x, Ints); }
inline Ints gather(const uint8_t* bytes, Ints offsets) { return (Ints)_mm_i32gather_epi32((const int*)bytes, (__m128i)offsets, 1); }
#endif

inline Ints floored(Doubles x) { return whole(x) + lanes(x < real(whole(x))); }
inline Ints between(Ints x, int count) { return x < 0 ? Ints{} : x < count ? x : Ints{} + (count - 1); }

inline bool is_zero(Doubles x) {
  Mask nonzero = x != 0.0;
  int64_t any = 0;
  for (int i = 0; i < kPixels; ++i) any |= nonzero[i];
  return !any;
}

struct Colours {
  Doubles channel[kChannels];
};

inline Colours colours(Ints pixels) {
  return {real(pixels & 255), real(pixels >> 8 & 255), real(pixels >> 16 & 255)};
}

inline Colours cubic(const Colours (&v)[4], Doubles share) {
  Colours result;
  for (int c = 0; c < kChannels; ++c) {
    const Doubles v1 = v[0].channel[c], v2 = v[1].channel[c], v3 = v[2].channel[c], v4 = v[3].channel[c];
    const Doubles slope = v3 - v1;
    const Doubles bend = (v1 - v2) + (v1 - v2) + v3 - v4;
    const Doubles twist = v2 - v1 - v3 + v4;
    result.channel[c] = v2 + rounded(share * (slope + rounded(share * (bend + rounded(share * twist)))));
  }
  return result;
}

struct Picture {
  const uint8_t* pixels;
  int height, width;
};

// The colours at x, y; the centre of the first pixel is at 0.5, 0.5.
inline Colours sample(const Picture& in, Doubles x, Doubles y) {
  const Ints left = floored(x - 0.5), top = floored(y - 0.5);
  const Doubles across = x - 0.5 - real(left), down = y - 0.5 - real(top);
  Ints columns[4], rows[4];
  for (int i = 0; i < 4; ++i) {
    columns[i] = between(left - 1 + i, in.width) * kChannels;
    rows[i] = between(top - 1 + i, in.height) * (in.width * kChannels);
  }
  const auto pixel = [&](int row, int column) { return colours(gather(in.pixels, rows[row] + columns[column])); };
  Colours line[4];
  if (is_zero(across)) {
    for (int i = 0; i < 4; ++i) line[i] = pixel(i, 1);
    return cubic(line, down);
  }
  const auto along_row = [&](int row) {
    Colours four[4];
    for (int i = 0; i < 4; ++i) four[i] = pixel(row, i);
    return cubic(four, across);
  };
  if (is_zero(down)) return along_row(1);
  for (int i = 0; i < 4; ++i) line[i] = along_row(i);
  return cubic(line, down);
}

inline Ints packed(const Colours& sampled) {
  Ints pixels{};
  for (int c = 0; c < kChannels; ++c) {
    const Doubles level = sampled.channel[c];
    pixels |= whole(level < 0.0 ? Doubles{} : level > 255.0 ? Doubles{} + 255.0 : level) << 8 * c;
  }
  return pixels;
}

}  // namespace

void affine(const uint8_t* in, uint8_t* out, int height, int width, const double* m, const uint8_t* fill) {
  const Picture picture{in, height, width};
  int32_t fill_pixel = 0;
  std::memcpy(&fill_pixel, fill, kChannels);
  Doubles centres;
  for (int i = 0; i < kPixels; ++i) centres[i] = i + 0.5;
  for (int row = 0; row < height; ++row) {
    const double at_y = row + 0.5;
    for (int column = 0; column < width; column += kPixels) {
      const Doubles at_x = centres + column;
      const Doubles x = rounded(m[0] * at_x) + rounded(m[1] * at_y) + m[2];
      const Doubles y = rounded(m[3] * at_x) + rounded(m[4] * at_y) + m[5];
      const Mask inside = (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height);
      const Ints sampled = packed(sample(picture, inside ? x : Doubles{}, inside ? y : Doubles{}));
      const Ints pixels = lanes(inside) ? sampled : Ints{} + fill_pixel;
      for (int i = 0; i < std::min(kPixels, width - column); ++i, out += kChannels) {
        const int32_t pixel = pixels[i];
        std::memcpy(out, &pixel, kChannels);
      }
    }
  }
}

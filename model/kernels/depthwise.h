// Depthwise 7x7 correlation, padding 3, stride 1, on (image, row, column, channel) tensors.
#pragma once
#include "simd.h"

constexpr int kTaps = 7;
constexpr int kHalf = 3;
#if defined(__AVX512F__)
constexpr int kSpan = 14;
#else
constexpr int kSpan = 7;
#endif

struct Images { int64_t count, height, width, channels; };

// Weights (C, 7, 7) -> (ceil(C / lanes), 49, lanes), zero-filled; flipped for the input gradient.
inline void pack_depthwise(const float* weights, int64_t channels, bool flipped, float* packed) {
  for (int64_t c0 = 0; c0 < channels; c0 += kLanes)
    for (int tap = 0; tap < kTaps * kTaps; tap++)
      for (int lane = 0; lane < kLanes; lane++, packed++)
        *packed = c0 + lane < channels ? weights[(c0 + lane) * 49 + (flipped ? 48 - tap : tap)] : 0.0f;
}

// sums[i] += correlation at column x0 + i of row y, for one vector of channels; `image` points to its first pixel.
template <int SPAN>
INLINE void correlate(const float* image, Images s, int64_t y, int64_t x0, int lanes, const float* packed, Vec (&out)[SPAN]) {
  Vec sums[SPAN];
#pragma GCC unroll 16
  for (int i = 0; i < SPAN; i++) sums[i] = out[i];
  for (int ky = 0; ky < kTaps; ky++) {
    const int64_t source_y = y + ky - kHalf;
    if (source_y < 0 || source_y >= s.height) continue;
    Vec w[kTaps];
#pragma GCC unroll 8
    for (int kx = 0; kx < kTaps; kx++) w[kx] = load(packed + (ky * kTaps + kx) * kLanes);
    const float* row = image + source_y * s.width * s.channels;
#pragma GCC unroll 32
    for (int j = 0; j < SPAN + kTaps - 1; j++) {
      const int64_t x = x0 + j - kHalf;
      if (x < 0 || x >= s.width) continue;
      const Vec pixel = load_part(row + x * s.channels, lanes);
#pragma GCC unroll 8
      for (int kx = 0; kx < kTaps; kx++)
        if (j - kx >= 0 && j - kx < SPAN) sums[j - kx] += pixel * w[kx];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < SPAN; i++) out[i] = sums[i];
}

template <int SPAN>
void correlate_span(const float* image, Images s, int64_t y, int64_t x0, int64_t columns, const float* packed,
                    const float* bias, const float* plus, float* out) {
  for (int64_t c0 = 0; c0 < s.channels; c0 += kLanes, packed += 49 * kLanes) {
    const int lanes = s.channels - c0 < kLanes ? int(s.channels - c0) : kLanes;
    Vec sums[SPAN];
    const Vec first = bias ? load_part(bias + c0, lanes) : Vec{};
#pragma GCC unroll 16
    for (int i = 0; i < SPAN; i++) sums[i] = first;
    if (lanes == kLanes) correlate<SPAN>(image + c0, s, y, x0, kLanes, packed, sums);
    else correlate<SPAN>(image + c0, s, y, x0, lanes, packed, sums);
    for (int i = 0; i < SPAN && i < columns; i++) {
      const int64_t at = i * s.channels + c0;
      store_part(out + at, plus ? sums[i] + load_part(plus + at, lanes) : sums[i], lanes);
    }
  }
}

// Pixels first..first+count-1 (flat over image, row, column) of the correlation plus bias (C) plus `plus` (their pixels).
inline void depthwise_pixels(const float* x, Images s, int64_t first, int64_t count, const float* packed,
                             const float* bias, const float* plus, float* out) {
  for (int64_t done = 0; done < count;) {
    const int64_t at = first + done, column = at % s.width, y = at / s.width % s.height;
    int64_t columns = s.width - column < count - done ? s.width - column : count - done;
    if (columns > kSpan) columns = kSpan;
    const float* image = x + at / (s.width * s.height) * s.width * s.height * s.channels;
    const float* more = plus ? plus + done * s.channels : nullptr;
    if (columns > 7) correlate_span<kSpan>(image, s, y, column, columns, packed, bias, more, out + done * s.channels);
    else correlate_span<7>(image, s, y, column, columns, packed, bias, more, out + done * s.channels);
    done += columns;
  }
}

// Weight and bias gradient of one image and one vector of channels: sums (50, lanes), the bias last.
inline void depthwise_weight_gradient(const float* image, const float* slope, Images s, int lanes, float* sums) {
  Vec bias = {};
  for (int64_t i = 0; i < s.height * s.width; i++) bias += load_part(slope + i * s.channels, lanes);
  store(sums + 49 * kLanes, bias);
  for (int ky = 0; ky < kTaps; ky++) {
    Vec total[kTaps] = {};
    for (int64_t y = 0; y < s.height; y++) {
      const int64_t source_y = y + ky - kHalf;
      if (source_y < 0 || source_y >= s.height) continue;
      const float* row = image + source_y * s.width * s.channels;
      const float* slope_row = slope + y * s.width * s.channels;
      for (int64_t x0 = 0; x0 < s.width; x0 += kSpan) {
        Vec g[kSpan];
#pragma GCC unroll 16
        for (int i = 0; i < kSpan; i++)
          g[i] = x0 + i < s.width ? load_part(slope_row + (x0 + i) * s.channels, lanes) : Vec{};
#pragma GCC unroll 32
        for (int j = 0; j < kSpan + kTaps - 1; j++) {
          const int64_t x = x0 + j - kHalf;
          if (x < 0 || x >= s.width) continue;
          const Vec pixel = load_part(row + x * s.channels, lanes);
#pragma GCC unroll 8
          for (int kx = 0; kx < kTaps; kx++)
            if (j - kx >= 0 && j - kx < kSpan) total[kx] += pixel * g[j - kx];
        }
      }
    }
    for (int kx = 0; kx < kTaps; kx++) store(sums + (ky * kTaps + kx) * kLanes, total[kx]);
  }
}

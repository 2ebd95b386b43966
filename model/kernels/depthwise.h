// Depthwise 7x7 correlation, padding 3, stride 1, on (image, row, column, channel) tensors.
#pragma once
#include "pool.h"
#include "rows.h"
#include "simd.h"

constexpr int kTaps = 7;  // of a row of the filter
constexpr int kHalf = 3;  // the padding on each side
constexpr int kFilterTaps = kTaps * kTaps;
constexpr int kGradientSums = kFilterTaps + 1;  // one more for the bias
// Columns at a time: they divide the rows of ConvNeXt's stages (56, 28, 14 and 7 px), and their sums, a filter row and a
// pixel fit into the registers (22 of 32 with AVX-512, 15 of 16 with AVX2).
#if defined(__AVX512F__)
constexpr int kSpan = 14;
#else
constexpr int kSpan = 7;
#endif

// The number of floats in the packed weights.
INLINE int64_t packed_taps_size(int64_t channels) { return round_up(channels, kLanes) * kFilterTaps; }

// Weights (C, 7, 7) -> (ceil(C / lanes), kFilterTaps, lanes), filled up with zeros; flipped for the input gradient.
inline void pack_depthwise(const float* weights, int64_t channels, bool flipped, float* packed) {
  for (int64_t c0 = 0; c0 < channels; c0 += kLanes)
    for (int tap = 0; tap < kFilterTaps; tap++)
      for (int lane = 0; lane < kLanes; lane++, packed++)
        *packed = c0 + lane < channels ? weights[(c0 + lane) * kFilterTaps + (flipped ? kFilterTaps - 1 - tap : tap)] : 0.0f;
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
  for (int64_t c0 = 0; c0 < s.channels; c0 += kLanes, packed += kFilterTaps * kLanes) {
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

// Weight and bias gradient of one image and one vector of channels: sums (kGradientSums, lanes), the bias last.
inline void depthwise_weight_gradient(const float* image, const float* slope, Images s, int lanes, float* sums) {
  Vec bias = {};
  for (int64_t i = 0; i < s.height * s.width; i++) bias += load_part(slope + i * s.channels, lanes);
  store(sums + kFilterTaps * kLanes, bias);
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

struct DepthwiseSlopes { float *x, *weight, *bias; };

INLINE int64_t tap_sums_size(Images s) { return s.count * round_up(s.channels, kLanes) * kGradientSums; }

// Gradients of the depthwise convolution's input (plus `plus` if given) and parameters; `tap_sums` is scratch memory.
inline void depthwise_gradient(Images s, const float* x, const float* slope, const float* flipped, const float* plus,
                               float* tap_sums, DepthwiseSlopes out) {
  const int64_t c = s.channels, vectors = ceil_div(c, kLanes), pixels = s.height * s.width, sums = s.count * vectors;
  const RowCut cut(s.count * pixels);
  parallel(cut.tasks + sums, [&](int64_t task, int) {
    if (task >= sums) {
      const int64_t first = cut.first(task - sums), at = first * c;
      return depthwise_pixels(slope, s, first, cut.count(task - sums), flipped, nullptr, plus ? plus + at : nullptr, out.x + at);
    }
    const int64_t c0 = task % vectors * kLanes, at = task / vectors * pixels * c + c0;
    depthwise_weight_gradient(x + at, slope + at, s, int(c - c0 < kLanes ? c - c0 : kLanes),
                              tap_sums + task * kGradientSums * kLanes);
  });
  for (int64_t k = 0; k < c; k++)
    for (int tap = 0; tap < kGradientSums; tap++) {
      float sum = 0;
      for (int64_t image = 0; image < s.count; image++)
        sum += tap_sums[((image * vectors + k / kLanes) * kGradientSums + tap) * kLanes + k % kLanes];
      (tap < kFilterTaps ? out.weight[k * kFilterTaps + tap] : out.bias[k]) = sum;
    }
}

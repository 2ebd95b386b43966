// LayerNorm over the channels of a row, without weight and bias, and its gradient.
#pragma once
#include <math.h>

#include "gemm.h"

constexpr float kEpsilon = 1e-6f;  // that of every LayerNorm in ConvNeXt (2201.03545); layers.EPSILON is the same

struct Moments { float mean, rstd; };

INLINE Moments row_moments(const float* row, int64_t channels) {
  Vec sum = {};
  for (int64_t c = 0; c < channels; c += kLanes) sum += load_part(row + c, int(channels - c < kLanes ? channels - c : kLanes));
  const float mean = lane_sum(sum) / float(channels);
  Vec squares = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int lanes = int(channels - c < kLanes ? channels - c : kLanes);
    const Vec centred = first_lanes(load_part(row + c, lanes) - mean, lanes);
    squares += centred * centred;
  }
  return {mean, 1.0f / sqrtf(lane_sum(squares) / float(channels) + kEpsilon)};
}

// (row - mean) * rstd of `count` rows into a row block of `rows` rows (blocked layout).
inline void normalise_rows(const float* source, int64_t count, int64_t rows, int64_t channels, float* blocked) {
  for (int64_t r = 0; r < count; r++) {
    const float* row = source + r * channels;
    const Moments m = row_moments(row, channels);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int lanes = int(channels - c < kLanes ? channels - c : kLanes);
      store(blocked + c / kBlock * rows * kBlock + r * kBlock + c % kBlock, (load_part(row + c, lanes) - m.mean) * m.rstd);
    }
  }
}

// LayerNorm backward for one row: the gradient of its input from that of its normalised output.
inline void norm_row(const float* row, const float* slopes, int64_t c, float* normalised, float* out) {
  const Moments m = row_moments(row, c);
  Vec sum = {}, dot = {};
  for (int64_t k = 0; k < c; k += kLanes) {
    const int lanes = int(c - k < kLanes ? c - k : kLanes);
    const Vec value = (load_part(row + k, lanes) - m.mean) * m.rstd, slope = load_part(slopes + k, lanes);
    store(normalised + k, value);
    sum += slope;
    dot += slope * value;
  }
  const float mean = lane_sum(sum) / float(c), mean_dot = lane_sum(dot) / float(c);
  for (int64_t k = 0; k < c; k += kLanes) {
    const int lanes = int(c - k < kLanes ? c - k : kLanes);
    const Vec value = load(normalised + k), slope = load_part(slopes + k, lanes);
    store_part(out + k, (slope - mean - value * mean_dot) * m.rstd, lanes);
  }
}

// What the block's operators share: shapes, the cut into row blocks, LayerNorm of a row block.
#pragma once
#include <math.h>

#include "depthwise.h"
#include "gemm.h"
#include "pool.h"

constexpr float kEpsilon = 1e-6f;
constexpr int64_t kTaskGroups = 8;      // row tiles in a task: their activations stay in L2
constexpr int64_t kHiddenChunk = 384;   // hidden columns at a time; a multiple of kBlock and kPanel

// An image tensor and the width of the MLP's hidden layer.
struct BlockShape {
  Images images;
  int64_t hidden;
  int64_t rows() const { return images.count * images.height * images.width; }
  int64_t channels() const { return images.channels; }
};

// `rows` cut into tasks of whole row tiles, an equal number for each thread.
struct RowCut {
  int64_t rows, task_rows, tasks;
  explicit RowCut(int64_t all) : rows(all) {
    const int64_t tiles = ceil_div(all, kTileRows), threads = pool_size();
    const int64_t wanted = round_up(ceil_div(tiles, kTaskGroups), threads);
    task_rows = ceil_div(tiles, wanted < tiles ? wanted : tiles) * kTileRows;
    tasks = ceil_div(all, task_rows);
  }
  int64_t first(int64_t task) const { return task * task_rows; }
  int64_t count(int64_t task) const { return rows - first(task) < task_rows ? rows - first(task) : task_rows; }
};

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

// LayerNorm backwards for one row: slope of its input from that of its normalised output.
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

// One row into the columns that the weight gradients read, (k / kGradRows, chunk_rows, kGradRows); `line` has room up to
// a multiple of kGradRows.
INLINE void store_columns(const float* line, int64_t depth, int64_t chunk_rows, int64_t row, float* columns) {
  for (int64_t k = 0; k < depth; k += kGradRows) memcpy(columns + k * chunk_rows + row * kGradRows, line + k, kGradRows * 4);
}

struct DepthwiseSlopes { float *x, *weight, *bias; };

INLINE int64_t tap_sums_size(Images s) { return s.count * round_up(s.channels, kLanes) * 50; }

// Slopes of the depthwise convolution's input (plus `plus` if given) and parameters; `tap_sums` is scratch.
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
    depthwise_weight_gradient(x + at, slope + at, s, int(c - c0 < kLanes ? c - c0 : kLanes), tap_sums + task * 50 * kLanes);
  });
  for (int64_t k = 0; k < c; k++)
    for (int tap = 0; tap < 50; tap++) {
      float sum = 0;
      for (int64_t image = 0; image < s.count; image++)
        sum += tap_sums[((image * vectors + k / kLanes) * 50 + tap) * kLanes + k % kLanes];
      (tap < 49 ? out.weight[k * 49 + tap] : out.bias[k]) = sum;
    }
}

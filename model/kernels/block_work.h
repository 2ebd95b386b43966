// The gradient of a block: inputs, outputs, and the workspace between its passes.
#pragma once
#include "block.h"
#include "workspace.h"

constexpr int64_t kChunkFloats = 4 << 20;   // most values of the hidden layer in a chunk of rows: 16 MiB
constexpr int64_t kChunkRows = 112 * kTileRows;  // most rows of a chunk: a few panels of them fit in L2

struct BlockInputs {
  const float *slope, *x, *depthwise_out, *expanded, *depthwise, *norm_weight, *norm_bias, *expand, *reduce, *reduce_bias,
      *scale, *keep;
};
struct BlockOutputs {
  float *x, *depthwise, *depthwise_bias, *norm_weight, *norm_bias, *expand, *expand_bias, *reduce, *reduce_bias, *scale;
};

// Parts of the shared workspace.
struct BlockWork {
  float *expand, *reduce;              // packed weights
  float *normalised, *slope;           // columns: (C / kGradRows, chunk, kGradRows)
  float *hidden_slope, *active;        // panels of (chunk, kPanel)
  float *expand_sums, *reduce_sums;    // T and G, (C rounded up, hidden rounded up)
  float *hidden_sums, *slope_sums;     // column sums of dz and dy
  float *depthwise_slope;              // (rows, C)
  float *flipped, *tap_sums;
  int64_t wide, chunk_rows;
};

inline BlockWork plan_work(const BlockShape& s) {
  const int64_t c = s.channels(), rows = s.rows();
  BlockWork w;
  w.wide = round_up(s.hidden, kPanel);
  const int64_t unit = kTaskGroups * kTileRows * pool_size();
  w.chunk_rows = kChunkFloats / w.wide < kChunkRows ? kChunkFloats / w.wide / unit * unit : kChunkRows;
  if (w.chunk_rows < unit) w.chunk_rows = unit;
  const int64_t chunks = ceil_div(rows, w.chunk_rows);
  w.chunk_rows = round_up(ceil_div(rows, chunks), kTileRows);
  const int64_t n = w.chunk_rows, high = round_up(c, kGradRows);
  divide_workspace({
      {&w.expand, panels_size(s.hidden, c)},
      {&w.reduce, panels_size(c, s.hidden)},
      {&w.normalised, n * high + kLanes},
      {&w.slope, n * high + kLanes},
      {&w.hidden_slope, n * w.wide},
      {&w.active, n * w.wide},
      {&w.expand_sums, high * w.wide},
      {&w.reduce_sums, high * w.wide},
      {&w.hidden_sums, w.wide},
      {&w.slope_sums, high},
      {&w.depthwise_slope, rows * c},
      {&w.flipped, packed_taps_size(c)},
      {&w.tap_sums, tap_sums_size(s.images)},
  });
  return w;
}

inline void pack(const BlockShape& s, const BlockInputs& in, const BlockWork& w) {
  const int64_t c = s.channels(), narrow = round_up(c, kPanel);
  pack_depthwise(in.depthwise, c, true, w.flipped);
  memset(w.hidden_sums, 0, w.wide * 4);
  memset(w.slope_sums, 0, round_up(c, kGradRows) * 4);
  parallel(w.wide / kPanel + narrow / kPanel, [&](int64_t task, int) {
    const int64_t n0 = task * kPanel;
    if (n0 < w.wide) {
      pack_panel(in.reduce, s.hidden, c, n0, s.hidden, in.scale, nullptr, w.reduce + n0 * c);
      for (int64_t k = 0; k < round_up(c, kGradRows); k++) {
        memset(w.expand_sums + k * w.wide + n0, 0, kPanel * 4);
        memset(w.reduce_sums + k * w.wide + n0, 0, kPanel * 4);
      }
    } else {
      pack_panel(in.expand, c, s.hidden, n0 - w.wide, c, nullptr, in.norm_weight, w.expand + (n0 - w.wide) * s.hidden);
    }
  });
}

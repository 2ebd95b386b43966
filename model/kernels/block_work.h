// The gradient of a block: inputs, outputs, and the workspace between its passes.
#pragma once
#include "block.h"
#include "gradient_rows.h"
#include "workspace.h"

constexpr int64_t kChunkFloats = 4 << 20;   // most values of the hidden layer in a chunk of rows
constexpr int64_t kChunkTiles = 112;        // most row tiles of a chunk: a few panels of them fit in L2

struct BlockInputs {
  const float *slope, *x, *depthwise_out;
  const void* expanded;  // values of the unit
  const float *depthwise, *norm_weight, *norm_bias, *expand, *reduce, *reduce_bias, *scale, *keep;
};
struct BlockOutputs {
  float *x, *depthwise, *depthwise_bias, *norm_weight, *norm_bias, *expand, *expand_bias, *reduce, *reduce_bias, *scale;
};

// Parts of the shared workspace.
template <class U>
struct BlockWork {
  typedef typename U::Value Value;
  Value *expand, *reduce;              // packed weights
  Value *normalised, *slope;           // left factors (GradientRows): (chunk, C)
  Value *hidden_slope, *active;        // right factors: (chunk, hidden)
  float *expand_sums, *reduce_sums;    // T and G, (C rounded up, hidden rounded up)
  float *hidden_sums, *slope_sums;     // column sums of dz and dy
  float *depthwise_slope;              // (rows, C)
  float *flipped, *tap_sums;
  int64_t wide, high, chunk_rows;
};

template <class U>
inline BlockWork<U> plan_work(const BlockShape& s) {
  typedef GradientRows<U> G;
  const int64_t c = s.channels(), rows = s.rows(), share = sizeof(float) / sizeof(typename U::Value);
  BlockWork<U> w;
  w.wide = round_up(s.hidden, U::kWide);
  w.high = round_up(c, G::kHigh);
  const int64_t unit = kTaskGroups * U::kRows * pool_size(), most = kChunkTiles * U::kRows;
  w.chunk_rows = kChunkFloats / w.wide < most ? kChunkFloats / w.wide / unit * unit : most;
  if (w.chunk_rows < unit) w.chunk_rows = unit;
  const int64_t chunks = ceil_div(rows, w.chunk_rows);
  w.chunk_rows = round_up(ceil_div(rows, chunks), U::kRows);
  const int64_t n = w.chunk_rows;
  float *expand, *reduce, *normalised, *slope, *hidden_slope, *active;
  divide_workspace({
      {&expand, packed_size<U>(s.hidden, c) / share},
      {&reduce, packed_size<U>(c, s.hidden) / share},
      {&normalised, G::left_size(n, c) / share},
      {&slope, G::left_size(n, c) / share},
      {&hidden_slope, G::right_size(n, s.hidden) / share},
      {&active, G::right_size(n, s.hidden) / share},
      {&w.expand_sums, w.high * w.wide},
      {&w.reduce_sums, w.high * w.wide},
      {&w.hidden_sums, w.wide},
      {&w.slope_sums, w.high},
      {&w.depthwise_slope, rows * c},
      {&w.flipped, packed_taps_size(c)},
      {&w.tap_sums, tap_sums_size(s.images)},
  });
  typedef typename U::Value Value;
  w.expand = reinterpret_cast<Value*>(expand);
  w.reduce = reinterpret_cast<Value*>(reduce);
  w.normalised = reinterpret_cast<Value*>(normalised);
  w.slope = reinterpret_cast<Value*>(slope);
  w.hidden_slope = reinterpret_cast<Value*>(hidden_slope);
  w.active = reinterpret_cast<Value*>(active);
  return w;
}

template <class U>
inline void pack(const BlockShape& s, const BlockInputs& in, const BlockWork<U>& w) {
  const int64_t c = s.channels(), narrow = round_up(c, U::kWide);
  pack_depthwise(in.depthwise, c, true, w.flipped);
  memset(w.hidden_sums, 0, w.wide * 4);
  memset(w.slope_sums, 0, w.high * 4);
  parallel(w.wide / U::kWide + narrow / U::kWide, [&](int64_t task, int) {
    const int64_t n0 = task * U::kWide;
    if (n0 < w.wide) {
      U::pack(in.reduce, s.hidden, c, n0, s.hidden, in.scale, nullptr, w.reduce + n0 * round_up(c, U::kDepth));
      for (int64_t k = 0; k < w.high; k++) {
        memset(w.expand_sums + k * w.wide + n0, 0, U::kWide * 4);
        memset(w.reduce_sums + k * w.wide + n0, 0, U::kWide * 4);
      }
    } else {
      U::pack(in.expand, c, s.hidden, n0 - w.wide, c, nullptr, in.norm_weight, w.expand + (n0 - w.wide) * round_up(s.hidden, U::kDepth));
    }
  });
}

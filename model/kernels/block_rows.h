// A ConvNeXt V1 block on a few hundred rows that stay in L2 from the first step to the last: depthwise 7x7, LayerNorm,
// Linear, GELU, Linear, layer scale, residual (DECISIONS, 2026-11-24). LayerNorm's affine part is folded into the first
// Linear, the layer scale into the second. `U` is what computes the products (units.h).
#pragma once
#include "block.h"
#include "gelu.h"
#include "units.h"
#include "workspace.h"

struct BlockWeights {  // V2 has no `scale`
  const float *depthwise, *depthwise_bias, *norm_weight, *norm_bias, *expand, *expand_bias, *reduce, *reduce_bias, *scale;
};

template <class U>
struct PackedBlock {
  typedef typename U::Value Value;
  float *depthwise, *depthwise_bias, *expand_bias, *reduce_bias;
  Value *expand, *reduce;

  // Divides a buffer; without one only counts. Returns the number of floats.
  int64_t divide(const BlockShape& s, float* buffer) {
    int64_t used = 0;
    const auto next = [&](int64_t floats) {
      float* part = buffer + used;
      used += round_up(floats, kCacheLineFloats);
      return part;
    };
    const int64_t c = s.channels(), share = sizeof(float) / sizeof(Value);
    depthwise = next(packed_taps_size(c));
    depthwise_bias = next(round_up(c, kLanes));
    expand_bias = next(round_up(s.hidden, U::kWide));
    reduce_bias = next(round_up(c, U::kWide));
    expand = reinterpret_cast<Value*>(next(packed_size<U>(c, s.hidden) / share));
    reduce = reinterpret_cast<Value*>(next(packed_size<U>(s.hidden, c) / share));
    return used;
  }

  void fill(const BlockShape& s, const BlockWeights& w) const {
    const int64_t c = s.channels(), hidden = s.hidden, wide = round_up(hidden, U::kWide), narrow = round_up(c, U::kWide);
    pack_depthwise(w.depthwise, c, false, depthwise);
    memcpy(depthwise_bias, w.depthwise_bias, c * 4);
    parallel(wide / U::kWide + narrow / U::kWide, [&](int64_t task, int) {
      const int64_t n0 = task * U::kWide < wide ? task * U::kWide : task * U::kWide - wide;
      if (task * U::kWide < wide) {
        U::pack_transposed(w.expand, c, c, n0, hidden, w.norm_weight, nullptr, expand + n0 * round_up(c, U::kDepth));
        for (int64_t n = n0; n < n0 + U::kWide; n++) {
          Vec sum = {};
          for (int64_t k = 0; n < hidden && k < c; k += kLanes) {
            const int lanes = int(c - k < kLanes ? c - k : kLanes);
            sum += load_part(w.expand + n * c + k, lanes) * load_part(w.norm_bias + k, lanes);
          }
          expand_bias[n] = n < hidden ? w.expand_bias[n] + lane_sum(sum) : 0.0f;
        }
      } else {
        U::pack_transposed(w.reduce, hidden, hidden, n0, c, nullptr, w.scale, reduce + n0 * round_up(hidden, U::kDepth));
        for (int64_t n = n0; n < n0 + U::kWide; n++) reduce_bias[n] = n < c ? w.reduce_bias[n] * (w.scale ? w.scale[n] : 1.0f) : 0.0f;
      }
    });
  }
};

// The last two may be null; `keep` may be, too, and then keeps all.
struct BlockTensors { const float *x, *keep; float *out, *depthwise_out; void* expanded; };  // `expanded` has values of the unit

// Writes hidden columns [j0, j0 + n) of one row block to `active` (blocked): GELU(normalised * expand + bias).
template <class U>
void expand_rows(const BlockShape& s, const PackedBlock<U>& p, const typename U::Value* normalised, int64_t rows,
                 int64_t count, int64_t j0, int64_t n, typename U::Value* active, typename U::Value* expanded) {
  for (int64_t j = 0; j < n; j += U::kWide) {
    const typename U::Value* panel = p.expand + (j0 + j) * round_up(s.channels(), U::kDepth);
    const float* bias = p.expand_bias + j0 + j;
    for (int64_t r = 0; r < rows; r += U::kRows) {
      alignas(64) float tile[U::kRows * U::kWide];
      U::multiply(tile, normalised + r * U::kColumns, rows, panel, s.channels());
      typename U::Value* to = at_column<U>(active, rows, j) + r * U::kColumns;
      for (int i = 0; i < U::kRows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < U::kWide; v += kLanes) {
          const Vec z = load(tile + i * U::kWide + v) + load(bias + v);
          const int64_t column = j0 + j + v;
          if (expanded && r + i < count && column < s.hidden)
            U::put_part(expanded + (r + i) * s.hidden + column, z, int(s.hidden - column < kLanes ? s.hidden - column : kLanes));
          U::put(to + i * U::kColumns + v, gelu(z));
        }
    }
  }
}

// sums (panels of rows x kWide) (+)= active * reduce rows [j0, j0 + n).
template <class U>
void reduce_rows(const BlockShape& s, const PackedBlock<U>& p, const typename U::Value* active, int64_t rows, int64_t j0,
                 int64_t n, float* sums) {
  for (int64_t c = 0; c < s.channels(); c += U::kWide)
    for (int64_t r = 0; r < rows; r += U::kRows) {
      float* to = sums + c * rows + r * U::kWide;
      const typename U::Value* panel = p.reduce + c * round_up(s.hidden, U::kDepth) + j0 * U::kWide;
      if (j0 == 0) {
        U::multiply(to, active + r * U::kColumns, rows, panel, n);
        continue;
      }
      alignas(64) float tile[U::kRows * U::kWide];
      U::multiply(tile, active + r * U::kColumns, rows, panel, n);
      for (int i = 0; i < U::kRows * U::kWide; i += kLanes) store(to + i, load(to + i) + load(tile + i));
    }
}

template <class U>
void add_residual(const BlockShape& s, const float* bias, const BlockTensors& t, int64_t first, int64_t count, int64_t rows,
                  const float* sums) {
  const int64_t c = s.channels(), pixels = s.images.height * s.images.width;
  for (int64_t r = 0; r < count; r++) {
    const float keep = t.keep ? t.keep[(first + r) / pixels] : 1.0f;
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      const Vec sum = load(sums + k / U::kWide * rows * U::kWide + r * U::kWide + k % U::kWide) + load(bias + k);
      store_part(t.out + (first + r) * c + k, load_part(t.x + (first + r) * c + k, lanes) + sum * keep, lanes);
    }
  }
}

// (row - mean) * rstd of `count` rows into a row block of `rows` rows.
template <class U>
void normalise_rows(const float* source, int64_t count, int64_t rows, int64_t channels, typename U::Value* blocked) {
  for (int64_t r = 0; r < count; r++) {
    const float* row = source + r * channels;
    const Moments m = row_moments(row, channels);
    for (int64_t c = 0; c < round_up(channels, U::kDepth); c += kLanes) {
      const int lanes = int(channels - c < kLanes ? channels - c : kLanes);
      const Vec value = lanes <= 0 ? Vec{} : (load_part(row + c, lanes) - m.mean) * m.rstd;
      U::put(at_column<U>(blocked, rows, c) + r * U::kColumns, value);
    }
  }
}

template <class U>
void forward_rows(const BlockShape& s, const PackedBlock<U>& p, const BlockTensors& t, int64_t first, int64_t count, int worker) {
  typedef typename U::Value Value;
  const int64_t c = s.channels(), rows = round_up(count, U::kRows), wide = round_up(c, U::kWide);
  const int64_t hidden_chunk = s.hidden < kHiddenChunk ? round_up(s.hidden, U::kWide) : kHiddenChunk;
  const int64_t values = row_block_size<U>(rows, c) + row_block_size<U>(rows, hidden_chunk);
  float* sums = worker_scratch(worker, rows * (wide + round_up(c, kLanes)) + values);
  float* filtered = t.depthwise_out ? t.depthwise_out + first * c : sums + rows * wide;
  Value* normalised = reinterpret_cast<Value*>(sums + rows * (wide + round_up(c, kLanes)));
  Value* active = normalised + row_block_size<U>(rows, c);
  depthwise_pixels(t.x, s.images, first, count, p.depthwise, p.depthwise_bias, nullptr, filtered);
  normalise_rows<U>(filtered, count, rows, c, normalised);
  Value* expanded = static_cast<Value*>(t.expanded);
  U::begin();
  for (int64_t j = 0; j < s.hidden; j += kHiddenChunk) {
    const int64_t n = s.hidden - j < kHiddenChunk ? s.hidden - j : kHiddenChunk;
    expand_rows<U>(s, p, normalised, rows, count, j, n, active, expanded ? expanded + first * s.hidden : nullptr);
    reduce_rows<U>(s, p, active, rows, j, n, sums);
  }
  U::end();
  add_residual<U>(s, p.reduce_bias, t, first, count, rows, sums);
}

template <class U>
void forward_block(const BlockShape& s, const PackedBlock<U>& p, const BlockTensors& t) {
  const RowCut cut(s.rows(), U::kRows);
  parallel(cut.tasks, [&](int64_t task, int worker) { forward_rows<U>(s, p, t, cut.first(task), cut.count(task), worker); });
}

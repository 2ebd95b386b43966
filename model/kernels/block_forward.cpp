// A whole ConvNeXt V1 block: depthwise 7x7, LayerNorm, Linear, GELU, Linear, layer scale, residual (DECISIONS,
// 2026-11-24). A few hundred rows stay in L2 from the first step to the last. LayerNorm's affine part is folded into the
// first Linear, the layer scale into the second.
#include "block.h"
#include "gelu.h"
#include "workspace.h"

namespace {

struct Weights {
  const float *depthwise, *depthwise_bias, *norm_weight, *norm_bias, *expand, *expand_bias, *reduce, *reduce_bias, *scale;
};

struct Packed { float *depthwise, *expand, *expand_bias, *reduce, *reduce_bias; };

Packed pack(const BlockShape& s, const Weights& w) {
  const int64_t c = s.channels(), hidden = s.hidden, wide = round_up(hidden, kPanel), narrow = round_up(c, kPanel);
  Packed p;
  divide_workspace({
      {&p.depthwise, packed_taps_size(c)},
      {&p.expand, c * wide},
      {&p.expand_bias, wide},
      {&p.reduce, hidden * narrow},
      {&p.reduce_bias, narrow},
  });
  pack_depthwise(w.depthwise, c, false, p.depthwise);
  parallel(wide / kPanel + narrow / kPanel, [&](int64_t task, int) {
    if (task < wide / kPanel) {
      const int64_t n0 = task * kPanel;
      pack_panel_transposed(w.expand, c, c, n0, hidden, w.norm_weight, nullptr, p.expand + n0 * c);
      for (int64_t n = n0; n < n0 + kPanel; n++) {
        Vec sum = {};
        for (int64_t k = 0; n < hidden && k < c; k += kLanes) {
          const int lanes = int(c - k < kLanes ? c - k : kLanes);
          sum += load_part(w.expand + n * c + k, lanes) * load_part(w.norm_bias + k, lanes);
        }
        p.expand_bias[n] = n < hidden ? w.expand_bias[n] + lane_sum(sum) : 0.0f;
      }
    } else {
      const int64_t n0 = task * kPanel - wide;
      pack_panel_transposed(w.reduce, hidden, hidden, n0, c, nullptr, w.scale, p.reduce + n0 * hidden);
      for (int64_t n = n0; n < n0 + kPanel; n++) p.reduce_bias[n] = n < c ? w.reduce_bias[n] * w.scale[n] : 0.0f;
    }
  });
  return p;
}

struct Tensors { const float *x, *keep; float *out, *depthwise_out, *expanded; };  // the last two may be null

// Writes hidden columns [j0, j0 + n) of one row block to `active` (blocked): GELU(normalised * expand + bias).
void expand_rows(const BlockShape& s, const Packed& p, const float* normalised, int64_t rows, int64_t count, int64_t j0,
                 int64_t n, float* active, float* expanded) {
  for (int64_t j = 0; j < n; j += kPanel) {
    const float* panel = p.expand + (j0 + j) * s.channels();
    const Vec bias[2] = {load(p.expand_bias + j0 + j), load(p.expand_bias + j0 + j + kLanes)};
    for (int64_t r = 0; r < rows; r += kTileRows) {
      Tile tile;
      multiply(tile, normalised + r * kBlock, rows, panel, s.channels());
      float* to = active + j / kBlock * rows * kBlock + r * kBlock + j % kBlock;
      for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVecs; v++) {
          const Vec z = tile.v[i][v] + bias[v];
          const int64_t column = j0 + j + v * kLanes;
          if (expanded && r + i < count && column < s.hidden)
            store_part(expanded + (r + i) * s.hidden + column, z, int(s.hidden - column < kLanes ? s.hidden - column : kLanes));
          store(to + i * kBlock + v * kLanes, gelu(z));
        }
    }
  }
}

// sums (panels of rows x kPanel) (+)= active * reduce rows [j0, j0 + n).
void reduce_rows(const BlockShape& s, const Packed& p, const float* active, int64_t rows, int64_t j0, int64_t n, float* sums) {
  for (int64_t c = 0; c < s.channels(); c += kPanel)
    for (int64_t r = 0; r < rows; r += kTileRows) {
      Tile tile;
      multiply(tile, active + r * kBlock, rows, p.reduce + c * s.hidden + j0 * kPanel, n);
      float* to = sums + c * rows + r * kPanel;
      for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVecs; v++, to += kLanes) store(to, j0 == 0 ? tile.v[i][v] : load(to) + tile.v[i][v]);
    }
}

void add_residual(const BlockShape& s, const Packed& p, const Tensors& t, int64_t first, int64_t count, int64_t rows,
                  const float* sums) {
  const int64_t c = s.channels(), pixels = s.images.height * s.images.width;
  for (int64_t r = 0; r < count; r++) {
    const float keep = t.keep[(first + r) / pixels];
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      const Vec sum = load(sums + k / kPanel * rows * kPanel + r * kPanel + k % kPanel) + load(p.reduce_bias + k);
      store_part(t.out + (first + r) * c + k, load_part(t.x + (first + r) * c + k, lanes) + sum * keep, lanes);
    }
  }
}

void forward_rows(const BlockShape& s, const Weights& w, const Packed& p, const Tensors& t, int64_t first, int64_t count,
                  int worker) {
  const int64_t c = s.channels(), rows = round_up(count, kTileRows);
  const int64_t hidden_chunk = s.hidden < kHiddenChunk ? s.hidden : kHiddenChunk;
  float* normalised = worker_scratch(worker, rows * (2 * round_up(c, kBlock) + round_up(hidden_chunk, kBlock) + round_up(c, kPanel)));
  float* active = normalised + blocked_size(rows, c);
  float* sums = active + blocked_size(rows, hidden_chunk);
  float* filtered = t.depthwise_out ? t.depthwise_out + first * c : sums + rows * round_up(c, kPanel);
  depthwise_pixels(t.x, s.images, first, count, p.depthwise, w.depthwise_bias, nullptr, filtered);
  normalise_rows(filtered, count, rows, c, normalised);
  for (int64_t j = 0; j < s.hidden; j += kHiddenChunk) {
    const int64_t n = s.hidden - j < kHiddenChunk ? s.hidden - j : kHiddenChunk;
    expand_rows(s, p, normalised, rows, count, j, n, active, t.expanded ? t.expanded + first * s.hidden : nullptr);
    reduce_rows(s, p, active, rows, j, n, sums);
  }
  add_residual(s, p, t, first, count, rows, sums);
}

int forward(void** params, int64_t** shapes, bool training) {
  const float* const* in = reinterpret_cast<const float* const*>(params);
  const BlockShape s = {{shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]}, shapes[5][0]};
  const Weights w = {in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8], in[9]};
  Tensors t = {in[0], in[10], static_cast<float*>(params[11]), nullptr, nullptr};
  if (training) {
    t.depthwise_out = static_cast<float*>(params[12]);
    t.expanded = static_cast<float*>(params[13]);
  }
  OperatorLock lock;
  const Packed p = pack(s, w);
  const RowCut cut(s.rows());
  parallel(cut.tasks, [&](int64_t task, int worker) { forward_rows(s, w, p, t, cut.first(task), cut.count(task), worker); });
  return 0;
}

}  // namespace

// x, depthwise weight and bias, norm weight and bias, pwconv1 weight and bias, pwconv2 weight and bias, gamma, keep -> out
extern "C" int convnext_block(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return forward(params, shapes, false);
}

// The same, and also stores what the gradient needs: depthwise output (N, H, W, C), expanded values (N, H, W, 4C).
extern "C" int convnext_block_training(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return forward(params, shapes, true);
}

// The gradient of a whole ConvNeXt block, from its input, the depthwise output and the expanded values.
//
// Rows are processed in chunks. In each chunk, tasks over rows compute the gradient back to the depthwise output and
// leave four matrices in the workspace; tasks over hidden columns then add products of these to the weight gradients.
// The order of every sum is independent of the threads. The gradients of norm weight, norm bias and layer scale follow
// from the weight gradients T = normalised^T dz and G = dy^T h, because these scales are folded into the weights.
// "slope" is the gradient of the loss by a tensor.
#include "block_work.h"
#include "gelu.h"

namespace {

constexpr int64_t kGroupPanels = 4;  // panels of hidden columns in a weight-gradient task: enough work for a task

using Inputs = BlockInputs;
using Outputs = BlockOutputs;
using Work = BlockWork;

struct Rows { int64_t first, count, at, padded; };  // rows of the tensor, and where they begin in the chunk

// dy = keep * slope, stored twice: blocked for the product, in columns for the weight gradient.
void scale_slope(const BlockShape& s, const Inputs& in, const Work& w, Rows rows, float* blocked, float* line) {
  const int64_t c = s.channels(), pixels = s.images.height * s.images.width;
  for (int64_t r = 0; r < rows.count; r++) {
    const float keep = in.keep[(rows.first + r) / pixels];
    const float* from = in.slope + (rows.first + r) * c;
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      const Vec v = load_part(from + k, lanes) * keep;
      store(blocked + k / kBlock * rows.padded * kBlock + r * kBlock + k % kBlock, v);
      store(line + k, v);
    }
    store_columns(line, c, w.chunk_rows, rows.at + r, w.slope);
  }
}

// Writes dz and h of one panel of hidden columns to the workspace, and dz also blocked for the next product.
void hidden_panel(const BlockShape& s, const Inputs& in, const Work& w, Rows rows, const float* slope, int64_t column,
                  float* blocked) {
  const float* panel = w.reduce + column * s.channels();
  float* slopes = w.hidden_slope + column * w.chunk_rows + rows.at * kPanel;
  float* actives = w.active + column * w.chunk_rows + rows.at * kPanel;
  for (int64_t r = 0; r < rows.padded; r += kTileRows) {
    Tile tile;
    multiply(tile, slope + r * kBlock, rows.padded, panel, s.channels());
    for (int i = 0; i < kTileRows && r + i < rows.count; i++) {
      const float* z_row = in.expanded + (rows.first + r + i) * s.hidden + column;
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; v++) {
        const int64_t left = s.hidden - column - v * kLanes;
        const Vec z = load_part(z_row + v * kLanes, int(left < 0 ? 0 : left < kLanes ? left : kLanes));
        const Vec cdf = normal_cdf(z), dz = tile.v[i][v] * gelu_slope(z, cdf);
        store(blocked + (r + i) * kBlock + v * kLanes, dz);
        store(slopes + (r + i) * kPanel + v * kLanes, dz);
        store(actives + (r + i) * kPanel + v * kLanes, z * cdf);
      }
    }
  }
}

void backward_rows(const BlockShape& s, const Inputs& in, const Work& w, Rows rows, int worker) {
  const int64_t c = s.channels(), n = rows.padded, hidden_chunk = s.hidden < kHiddenChunk ? w.wide : kHiddenChunk;
  float* slope = worker_scratch(worker, blocked_size(n, c) + blocked_size(n, hidden_chunk) + (n + 2) * (round_up(c, kPanel) + kLanes));
  float* hidden = slope + blocked_size(n, c);
  float* sums = hidden + blocked_size(n, hidden_chunk);
  float* line = sums + n * round_up(c, kPanel);
  float* normalised = line + round_up(c, kPanel) + kLanes;
  scale_slope(s, in, w, rows, slope, line);
  for (int64_t j0 = 0; j0 < s.hidden; j0 += kHiddenChunk) {
    const int64_t depth = s.hidden - j0 < kHiddenChunk ? s.hidden - j0 : kHiddenChunk;
    for (int64_t j = 0; j < depth; j += kPanel)
      hidden_panel(s, in, w, rows, slope, j0 + j, hidden + j / kBlock * n * kBlock + j % kBlock);
    for (int64_t k = 0; k < c; k += kPanel)
      for (int64_t r = 0; r < n; r += kTileRows) {
        Tile tile;
        multiply(tile, hidden + r * kBlock, n, w.expand + k * s.hidden + j0 * kPanel, depth);
        float* to = sums + k * n + r * kPanel;
        for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 2
          for (int v = 0; v < kPanelVecs; v++, to += kLanes) store(to, j0 == 0 ? tile.v[i][v] : load(to) + tile.v[i][v]);
      }
  }
  for (int64_t r = 0; r < rows.count; r++) {
    for (int64_t k = 0; k < c; k += kPanel) memcpy(line + k, sums + k * n + r * kPanel, kPanel * 4);
    norm_row(in.depthwise_out + (rows.first + r) * c, line, c, normalised,
             w.depthwise_slope + (rows.first + r) * c);
    store_columns(normalised, c, w.chunk_rows, rows.at + r, w.normalised);
  }
}

// sums[c][j] += sum over the chunk's rows of left[row][c] * right[row][j], for a group of panels.
void add_products(int64_t c, const Work& w, const float* left, const float* right, int64_t rows, int64_t j0, int64_t j1,
                  float* sums) {
  for (int64_t c0 = 0; c0 < c; c0 += kGradRows)
    for (int64_t j = j0; j < j1; j += kPanel)
      accumulate_gradient(left + c0 * w.chunk_rows, right + j * w.chunk_rows, rows, sums + c0 * w.wide + j, w.wide);
}

void add_panel_sums(const float* panel, int64_t rows, float* sums) {
  Vec total[kPanelVecs] = {};
  for (int64_t r = 0; r < rows; r++)
    for (int v = 0; v < kPanelVecs; v++) total[v] += load(panel + r * kPanel + v * kLanes);
  for (int v = 0; v < kPanelVecs; v++) store(sums + v * kLanes, load(sums + v * kLanes) + total[v]);
}

void add_slope_sums(const Work& w, int64_t c, int64_t rows) {
  for (int64_t k = 0; k < c; k += kGradRows) {
    float total[kGradRows] = {};
    for (int64_t r = 0; r < rows; r++)
      for (int i = 0; i < kGradRows; i++) total[i] += w.slope[k * w.chunk_rows + r * kGradRows + i];
    for (int i = 0; i < kGradRows; i++) w.slope_sums[k + i] += total[i];
  }
}

void weight_gradients(const BlockShape& s, const Work& w, int64_t rows) {
  const int64_t group = kGroupPanels * kPanel, groups = ceil_div(w.wide, group), c = s.channels();
  parallel(2 * groups + 1, [&](int64_t task, int) {
    if (task == 2 * groups) return add_slope_sums(w, c, rows);
    const int64_t j0 = task / 2 * group, j1 = w.wide - j0 < group ? w.wide : j0 + group;
    if (task % 2 == 0) {
      add_products(c, w, w.normalised, w.hidden_slope, rows, j0, j1, w.expand_sums);
      for (int64_t j = j0; j < j1; j += kPanel) add_panel_sums(w.hidden_slope + j * w.chunk_rows, rows, w.hidden_sums + j);
    } else {
      add_products(c, w, w.slope, w.active, rows, j0, j1, w.reduce_sums);
    }
  });
}

// The gradients of the second Linear and the layer scale for one channel, from its row of G.
void finish_channel(const BlockShape& s, const Inputs& in, const Work& w, const Outputs& out, int64_t c) {
  const float* g = w.reduce_sums + c * w.wide;
  Vec scale = {};
  for (int64_t j = 0; j < s.hidden; j += kLanes) {
    const int lanes = int(s.hidden - j < kLanes ? s.hidden - j : kLanes);
    const Vec product = load(g + j);
    scale += load_part(in.reduce + c * s.hidden + j, lanes) * product;
    store_part(out.reduce + c * s.hidden + j, product * in.scale[c], lanes);
  }
  out.scale[c] = lane_sum(scale) + in.reduce_bias[c] * w.slope_sums[c];
  out.reduce_bias[c] = in.scale[c] * w.slope_sums[c];
}

// The first Linear's gradient for kLanes channels: transposes T and sums the norm's gradients over hidden columns.
void finish_expand(const BlockShape& s, const Inputs& in, const Work& w, const Outputs& out, int64_t c0) {
  const int64_t c = s.channels();
  const int lanes = int(c - c0 < kLanes ? c - c0 : kLanes);
  const Vec gain = load_part(in.norm_weight + c0, lanes), shift = load_part(in.norm_bias + c0, lanes);
  Vec gain_sum = {}, shift_sum = {};
  for (int64_t j0 = 0; j0 < s.hidden; j0 += kLanes) {
    Vec block[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) block[i] = i < lanes ? load(w.expand_sums + (c0 + i) * w.wide + j0) : Vec{};
    transpose(block);
    for (int i = 0; i < kLanes && j0 + i < s.hidden; i++) {
      const float total = w.hidden_sums[j0 + i];
      const Vec weight = load_part(in.expand + (j0 + i) * c + c0, lanes);
      gain_sum += weight * block[i];
      shift_sum += weight * total;
      store_part(out.expand + (j0 + i) * c + c0, block[i] * gain + shift * total, lanes);
    }
  }
  store_part(out.norm_weight + c0, gain_sum, lanes);
  store_part(out.norm_bias + c0, shift_sum, lanes);
}

void backward(const BlockShape& s, const Inputs& in, const Outputs& out) {
  const Work w = plan_work(s);
  pack(s, in, w);
  for (int64_t start = 0; start < s.rows(); start += w.chunk_rows) {
    const int64_t count = s.rows() - start < w.chunk_rows ? s.rows() - start : w.chunk_rows;
    const RowCut cut(count);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      const int64_t at = cut.first(task), n = cut.count(task);
      backward_rows(s, in, w, {start + at, n, at, round_up(n, kTileRows)}, worker);
    });
    weight_gradients(s, w, count);
  }
  const int64_t c = s.channels(), vectors = ceil_div(c, kLanes);
  parallel(vectors, [&](int64_t task, int) {
    finish_expand(s, in, w, out, task * kLanes);
    for (int64_t k = task * kLanes; k < c && k < (task + 1) * kLanes; k++) finish_channel(s, in, w, out, k);
  });
  memcpy(out.expand_bias, w.hidden_sums, s.hidden * 4);
  depthwise_gradient(s.images, in.x, w.depthwise_slope, w.flipped, in.slope, w.tap_sums,
                     {out.x, out.depthwise, out.depthwise_bias});
}

}  // namespace

// slope of the output, x, depthwise output, expanded values, depthwise weight, norm weight and bias, pwconv1 weight,
// pwconv2 weight and bias, gamma, keep -> slopes of x and of the block's nine parameters in the order of convnext_block.
extern "C" int convnext_block_gradient(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 12;
  const BlockShape s = {{shapes[1][0], shapes[1][1], shapes[1][2], shapes[1][3]}, shapes[7][0]};
  const Inputs in = {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]};
  const Outputs out = {q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8], q[9]};
  OperatorLock lock;
  backward(s, in, out);
  return 0;
}

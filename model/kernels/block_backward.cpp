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

constexpr int64_t kGroupColumns = 128;  // hidden columns of a weight-gradient task: enough work for a task

using Inputs = BlockInputs;
using Outputs = BlockOutputs;

struct Rows { int64_t first, count, at, padded; };  // rows of the tensor, and where they begin in the chunk

// dy = keep * slope, stored twice: blocked for the product, and as left factor of the weight gradient.
template <class U>
void scale_slope(const BlockShape& s, const Inputs& in, const BlockWork<U>& w, Rows rows, typename U::Value* blocked, float* lines) {
  const int64_t c = s.channels(), pixels = s.images.height * s.images.width, room = round_up(c, kPanel) + kLanes;
  for (int64_t r = 0; r < rows.count; r++) {
    const float keep = in.keep[(rows.first + r) / pixels];
    const float* from = in.slope + (rows.first + r) * c;
    float* line = lines + r % 2 * room;
    for (int64_t k = 0; k < round_up(c, U::kDepth); k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      const Vec v = lanes <= 0 ? Vec{} : load_part(from + k, lanes) * keep;
      U::put(at_column<U>(blocked, rows.padded, k) + r * U::kColumns, v);
      if (lanes > 0) store(line + k, v);
    }
    if (r % 2 || r + 1 == rows.count)
      GradientRows<U>::put_left(lines, r % 2 ? lines + room : nullptr, c, w.chunk_rows, rows.at + r / 2 * 2, w.slope);
  }
}

// Writes dz and h of one panel of hidden columns to the workspace, and dz also blocked for the next product.
template <class U>
void hidden_panel(const BlockShape& s, const Inputs& in, const BlockWork<U>& w, Rows rows, const typename U::Value* slope,
                  int64_t column, typename U::Value* blocked) {
  typedef typename U::Value Value;
  const Value *panel = w.reduce + column * round_up(s.channels(), U::kDepth), *expanded = static_cast<const Value*>(in.expanded);
  for (int64_t r = 0; r < rows.padded; r += U::kRows) {
    alignas(64) float tile[U::kRows * U::kWide];
    U::multiply(tile, slope + r * U::kColumns, rows.padded, panel, s.channels());
    for (int i = 0; i < U::kRows && r + i < rows.count; i += 2) {
      const bool has_odd = r + i + 1 < rows.count;
#pragma GCC unroll 4
      for (int v = 0; v < U::kWide; v += kLanes) {
        const int64_t left = s.hidden - column - v;
        const int lanes = int(left < 0 ? 0 : left < kLanes ? left : kLanes);
        Vec dz[2] = {}, h[2] = {};
        for (int odd = 0; odd <= int(has_odd); odd++) {
          const Vec z = U::get_part(expanded + (rows.first + r + i + odd) * s.hidden + column + v, lanes);
          const Vec cdf = normal_cdf(z);
          dz[odd] = load(tile + (i + odd) * U::kWide + v) * gelu_slope(z, cdf);
          h[odd] = z * cdf;
          U::put(blocked + (r + i + odd) * U::kColumns + v, dz[odd]);
        }
        GradientRows<U>::put_right(dz[0], dz[1], has_odd, w.chunk_rows, column, rows.at + r + i, v, w.hidden_slope);
        GradientRows<U>::put_right(h[0], h[1], has_odd, w.chunk_rows, column, rows.at + r + i, v, w.active);
      }
    }
  }
}

template <class U>
void backward_rows(const BlockShape& s, const Inputs& in, const BlockWork<U>& w, Rows rows, int worker) {
  typedef typename U::Value Value;
  const int64_t c = s.channels(), n = rows.padded, hidden_chunk = s.hidden < kHiddenChunk ? w.wide : kHiddenChunk;
  const int64_t narrow = round_up(c, U::kWide), room = round_up(c, kPanel) + kLanes;
  const int64_t values = row_block_size<U>(n, c) + row_block_size<U>(n, hidden_chunk);
  float* sums = worker_scratch(worker, n * narrow + 3 * round_up(room, kCacheLineFloats) + narrow + values);
  float* lines = sums + n * narrow;  // two rows
  float* line = lines + 2 * round_up(room, kCacheLineFloats);
  Value* slope = reinterpret_cast<Value*>(line + round_up(room, kCacheLineFloats) + narrow);
  Value* hidden = slope + row_block_size<U>(n, c);
  scale_slope<U>(s, in, w, rows, slope, lines);
  U::begin();
  for (int64_t j0 = 0; j0 < s.hidden; j0 += kHiddenChunk) {
    const int64_t depth = s.hidden - j0 < kHiddenChunk ? s.hidden - j0 : kHiddenChunk;
    for (int64_t j = 0; j < depth; j += U::kWide)
      hidden_panel<U>(s, in, w, rows, slope, j0 + j, at_column<U>(hidden, n, j));
    for (int64_t k = 0; k < c; k += U::kWide)
      for (int64_t r = 0; r < n; r += U::kRows) {
        float* to = sums + k * n + r * U::kWide;
        alignas(64) float tile[U::kRows * U::kWide];
        U::multiply(tile, hidden + r * U::kColumns, n, w.expand + k * round_up(s.hidden, U::kDepth) + j0 * U::kWide, depth);
        for (int i = 0; i < U::kRows * U::kWide; i += kLanes)
          store(to + i, j0 == 0 ? load(tile + i) : load(to + i) + load(tile + i));
      }
  }
  U::end();
  for (int64_t r = 0; r < rows.count; r++) {
    for (int64_t k = 0; k < c; k += U::kWide) memcpy(line + k, sums + k * n + r * U::kWide, U::kWide * 4);
    norm_row(in.depthwise_out + (rows.first + r) * c, line, c, lines + r % 2 * room, w.depthwise_slope + (rows.first + r) * c);
    if (r % 2 || r + 1 == rows.count)
      GradientRows<U>::put_left(lines, r % 2 ? lines + room : nullptr, c, w.chunk_rows, rows.at + r / 2 * 2, w.normalised);
  }
}

template <class U>
void weight_gradients(const BlockShape& s, const BlockWork<U>& w, int64_t rows) {
  typedef GradientRows<U> G;
  const int64_t groups = ceil_div(w.wide, kGroupColumns), c = s.channels();
  G::clear_left(c, w.chunk_rows, rows, w.normalised);
  G::clear_left(c, w.chunk_rows, rows, w.slope);
  parallel(2 * groups + 1, [&](int64_t task, int) {
    if (task == 2 * groups) return G::add_left_sums(w.slope, c, w.chunk_rows, rows, w.slope_sums);
    const int64_t j0 = task / 2 * kGroupColumns, j1 = w.wide - j0 < kGroupColumns ? w.wide : j0 + kGroupColumns;
    typename U::Value *left = task % 2 ? w.slope : w.normalised, *right = task % 2 ? w.active : w.hidden_slope;
    U::begin();
    for (int64_t j = j0; j < j1; j += U::kWide) G::clear_right(w.chunk_rows, rows, j, right);
    G::add(left, right, c, w.chunk_rows, rows, j0, j1, task % 2 ? w.reduce_sums : w.expand_sums, w.wide);
    for (int64_t j = j0; j < j1 && task % 2 == 0; j += U::kWide) add_right_sums<U>(right, w.chunk_rows, rows, j, w.hidden_sums);
    U::end();
  });
}

// The gradients of the second Linear and the layer scale for one channel, from its row of G.
template <class U>
void finish_channel(const BlockShape& s, const Inputs& in, const BlockWork<U>& w, const Outputs& out, int64_t c) {
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
template <class U>
void finish_expand(const BlockShape& s, const Inputs& in, const BlockWork<U>& w, const Outputs& out, int64_t c0) {
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

template <class U>
void backward(const BlockShape& s, const Inputs& in, const Outputs& out) {
  const BlockWork<U> w = plan_work<U>(s);
  pack<U>(s, in, w);
  for (int64_t start = 0; start < s.rows(); start += w.chunk_rows) {
    const int64_t count = s.rows() - start < w.chunk_rows ? s.rows() - start : w.chunk_rows;
    const RowCut cut(count, U::kRows);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      const int64_t at = cut.first(task), n = cut.count(task);
      backward_rows<U>(s, in, w, {start + at, n, at, round_up(n, U::kRows)}, worker);
    });
    weight_gradients<U>(s, w, count);
  }
  const int64_t c = s.channels(), vectors = ceil_div(c, kLanes);
  parallel(vectors, [&](int64_t task, int) {
    finish_expand<U>(s, in, w, out, task * kLanes);
    for (int64_t k = task * kLanes; k < c && k < (task + 1) * kLanes; k++) finish_channel<U>(s, in, w, out, k);
  });
  memcpy(out.expand_bias, w.hidden_sums, s.hidden * 4);
  depthwise_gradient(s.images, in.x, w.depthwise_slope, w.flipped, in.slope, w.tap_sums,
                     {out.x, out.depthwise, out.depthwise_bias});
}

int gradient(int64_t unit, void** params, int64_t** shapes) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 12;
  const BlockShape s = {{shapes[1][0], shapes[1][1], shapes[1][2], shapes[1][3]}, shapes[7][0]};
  const Inputs in = {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]};
  const Outputs out = {q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8], q[9]};
  OperatorLock lock;
  with_unit(unit, [&](auto u) { backward<decltype(u)>(s, in, out); });
  return 0;
}

}  // namespace

// slope of the output, x, depthwise output, expanded values, depthwise weight, norm weight and bias, pwconv1 weight,
// pwconv2 weight and bias, gamma, keep -> slopes of x and of the block's nine parameters in the order of convnext_block.
extern "C" int convnext_block_gradient(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return gradient(kFloat32, params, shapes);
}

// The same with products in bfloat16.
extern "C" int convnext_block_gradient_bfloat16(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return gradient(low_unit(), params, shapes);
}

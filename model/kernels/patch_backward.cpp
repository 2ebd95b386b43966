// The product over patches, backward: gradients of the images, the weights, and the norm before them.
#include "patch.h"
#include "workspace.h"

namespace {

constexpr int64_t kPatchChunkRows = 56 * kTileRows;  // rows whose values and gradients are kept for the weight gradient

struct Outputs { float *x, *norm_weight, *norm_bias, *weight, *bias; };

struct Work {
  float *weights, *columns, *slopes, *sums, *slope_sums;
  int64_t wide, chunk_rows;
};

Work plan_work(const PatchShape& s) {
  const int64_t depth = s.depth(), high = round_up(depth, kGradRows);
  Work w;
  w.wide = round_up(s.out, kPanel);
  w.chunk_rows = round_up(s.rows() < kPatchChunkRows ? s.rows() : kPatchChunkRows, kTileRows);
  divide_workspace({
      {&w.weights, panels_size(s.out, depth)},
      {&w.columns, w.chunk_rows * high},
      {&w.slopes, w.chunk_rows * w.wide},
      {&w.sums, high * w.wide},
      {&w.slope_sums, w.wide},
  });
  return w;
}

// A panel of B[d][(tap, c)], and zeros in the sums.
void pack_backward(const PatchShape& s, const PatchInputs& in, int64_t n0, float* panel) {
  const int64_t c = s.images.channels, taps = s.taps();
  if (taps == 1) return pack_panel(in.weight, c, s.out, n0, c, nullptr, in.norm_weight, panel);
  for (int64_t d = 0; d < s.out; d++)
    for (int64_t i = 0; i < kPanel; i++, panel++) {
      const int64_t tap = (n0 + i) / c, k = (n0 + i) % c;
      *panel = tap >= taps ? 0.0f : in.weight[(d * c + k) * taps + tap] * (in.norm_weight ? in.norm_weight[k] : 1.0f);
    }
}

// Writes the gradient of the images' pixels in one row block, and the columns that the weight gradient reads.
void backward_rows(const PatchShape& s, const PatchInputs& in, const float* slope, const Work& w, int64_t start, int64_t at,
                   int64_t count, int worker, float* out) {
  const int64_t rows = round_up(count, kTileRows), depth = s.depth(), c = s.images.channels;
  const int64_t room = round_up(depth, kBlock) + kBlock;
  float* blocked = worker_scratch(worker, blocked_size(rows, s.out) + rows * round_up(depth, kPanel) + 2 * room);
  float* sums = blocked + blocked_size(rows, s.out);
  float* line = sums + rows * round_up(depth, kPanel);
  float* values = line + room;
  for (int64_t r = 0; r < count; r++) {
    const float* row = slope + (start + at + r) * s.out;
    store_blocked(row, s.out, rows, r, blocked);
    for (int64_t n = 0; n < s.out; n += kLanes)
      store(w.slopes + n / kPanel * kPanel * w.chunk_rows + (at + r) * kPanel + n % kPanel,
            load_part(row + n, int(s.out - n < kLanes ? s.out - n : kLanes)));
  }
  for (int64_t n = 0; n < depth; n += kPanel)
    for (int64_t r = 0; r < rows; r += kTileRows) {
      Tile tile;
      multiply(tile, blocked + r * kBlock, rows, w.weights + n * s.out, s.out);
      for (int i = 0; i < kTileRows; i++)
        for (int v = 0; v < kPanelVecs; v++) store(sums + n * rows + (r + i) * kPanel + v * kLanes, tile.v[i][v]);
    }
  for (int64_t r = 0; r < count; r++) {
    for (int64_t n = 0; n < depth; n += kPanel) memcpy(line + n, sums + n * rows + r * kPanel, kPanel * 4);
    for (int64_t tap = 0; tap < s.taps(); tap++) {
      const int64_t pixel = s.pixel(start + at + r, tap);
      if (in.norm_weight) norm_row(in.x + pixel, line + tap * c, c, values + tap * c, out + pixel);
      else {
        memcpy(values + tap * c, in.x + pixel, c * 4);
        memcpy(out + pixel, line + tap * c, c * 4);
      }
    }
    store_columns(values, depth, w.chunk_rows, at + r, w.columns);
  }
}

void weight_gradients(const PatchShape& s, const Work& w, int64_t rows) {
  const int64_t depth = s.depth();
  parallel(ceil_div(depth, kGradRows) + 1, [&](int64_t task, int) {
    const int64_t k = task * kGradRows;
    if (k < depth) {
      for (int64_t n = 0; n < w.wide; n += kPanel)
        accumulate_gradient(w.columns + k * w.chunk_rows, w.slopes + n * w.chunk_rows, rows, w.sums + k * w.wide + n, w.wide);
      return;
    }
    for (int64_t n = 0; n < w.wide; n += kLanes) {
      const float* panel = w.slopes + n / kPanel * kPanel * w.chunk_rows + n % kPanel;
      Vec total = {};
      for (int64_t r = 0; r < rows; r++) total += load(panel + r * kPanel);
      store(w.slope_sums + n, load(w.slope_sums + n) + total);
    }
  });
}

void finish_channel(const PatchShape& s, const PatchInputs& in, const Work& w, const Outputs& out, int64_t c) {
  const int64_t taps = s.taps();
  float gain = 0, shift = 0;
  for (int64_t d = 0; d < s.out; d++)
    for (int64_t tap = 0; tap < taps; tap++) {
      const int64_t at = (d * s.images.channels + c) * taps + tap;
      const float product = w.sums[(tap * s.images.channels + c) * w.wide + d];
      out.weight[at] = in.norm_weight ? product * in.norm_weight[c] + in.norm_bias[c] * w.slope_sums[d] : product;
      gain += in.weight[at] * product;
      shift += in.weight[at] * w.slope_sums[d];
    }
  if (in.norm_weight == nullptr) return;
  out.norm_weight[c] = gain;
  out.norm_bias[c] = shift;
}

// Sets the gradient of pixels that fill no patch to zero.
void clear_rest(const PatchShape& s, float* out) {
  if (s.height() * s.size != s.images.height || s.width() * s.size != s.images.width)
    memset(out, 0, s.images.count * s.images.height * s.images.width * s.images.channels * 4);
}

int backward(const PatchShape& s, const PatchInputs& in, const float* slope, const Outputs& out) {
  OperatorLock lock;
  const Work w = plan_work(s);
  clear_rest(s, out.x);
  memset(w.sums, 0, round_up(s.depth(), kGradRows) * w.wide * 4);
  memset(w.slope_sums, 0, w.wide * 4);
  parallel(ceil_div(s.depth(), kPanel), [&](int64_t task, int) { pack_backward(s, in, task * kPanel, w.weights + task * kPanel * s.out); });
  for (int64_t start = 0; start < s.rows(); start += w.chunk_rows) {
    const int64_t count = s.rows() - start < w.chunk_rows ? s.rows() - start : w.chunk_rows;
    const RowCut cut(count);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      backward_rows(s, in, slope, w, start, cut.first(task), cut.count(task), worker, out.x);
    });
    weight_gradients(s, w, count);
  }
  parallel(s.images.channels, [&](int64_t c, int) { finish_channel(s, in, w, out, c); });
  memcpy(out.bias, w.slope_sums, s.out * 4);
  return 0;
}

}  // namespace

// gradient of the output, x, weight -> gradients of x, weight, bias
extern "C" int convnext_patch_gradient(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 3;
  return backward(read_shape(shapes[1], dims[2], shapes[2]), {p[1], nullptr, nullptr, p[2], nullptr}, p[0], {q[0], nullptr, nullptr, q[1], q[2]});
}

// gradient of the output, x, norm weight and bias, weight -> gradients of x, norm weight and bias, weight, bias
extern "C" int convnext_norm_patch_gradient(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 5;
  return backward(read_shape(shapes[1], dims[4], shapes[4]), {p[1], p[2], p[3], p[4], nullptr}, p[0], {q[0], q[1], q[2], q[3], q[4]});
}

// The product over patches, backward: gradients of the images, the weights, and the norm before them.
#include "gradient_rows.h"
#include "patch.h"
#include "workspace.h"

#include <algorithm>

namespace {

constexpr int64_t kPatchChunkTiles = 56;  // row tiles whose values and gradients are kept for the weight gradient
constexpr int64_t kSlopeColumns = 4;      // panels of a weight-gradient task

struct Outputs { float *x, *norm_weight, *norm_bias, *weight, *bias; };

template <class U>
struct Work {
  typename U::Value *weights, *columns, *slopes;  // columns: left factor (GradientRows), slopes: right factor
  float *sums, *slope_sums;
  int64_t wide, high, chunk_rows;
};

template <class U>
Work<U> plan_work(const PatchShape& s) {
  typedef GradientRows<U> G;
  typedef typename U::Value Value;
  const int64_t depth = s.depth(), share = sizeof(float) / sizeof(Value), most = kPatchChunkTiles * U::kRows;
  Work<U> w;
  w.wide = round_up(s.out, U::kWide);
  w.high = round_up(depth, G::kHigh);
  w.chunk_rows = round_up(s.rows() < most ? s.rows() : most, U::kRows);
  float *weights, *columns, *slopes;
  divide_workspace({
      {&weights, packed_size<U>(s.out, depth) / share},
      {&columns, G::left_size(w.chunk_rows, depth) / share},
      {&slopes, G::right_size(w.chunk_rows, s.out) / share},
      {&w.sums, w.high * w.wide},
      {&w.slope_sums, w.wide},
  });
  w.weights = reinterpret_cast<Value*>(weights);
  w.columns = reinterpret_cast<Value*>(columns);
  w.slopes = reinterpret_cast<Value*>(slopes);
  return w;
}

// A panel of B[d][(tap, c)].
template <class U>
void pack_backward(const PatchShape& s, const PatchInputs& in, int64_t n0, int worker, typename U::Value* panel) {
  const int64_t c = s.images.channels, taps = s.taps();
  if (taps == 1) return U::pack(in.weight, c, s.out, n0, c, nullptr, in.norm_weight, panel);
  float* rows = worker_scratch(worker, s.out * U::kWide);  // the panel's columns, in their own order
  for (int64_t d = 0; d < s.out; d++)
    for (int64_t i = 0; i < U::kWide; i++) {
      const int64_t tap = (n0 + i) / c, k = (n0 + i) % c;
      rows[d * U::kWide + i] = tap >= taps ? 0.0f : in.weight[(d * c + k) * taps + tap] * (in.norm_weight ? in.norm_weight[k] : 1.0f);
    }
  U::pack(rows, U::kWide, s.out, 0, U::kWide, nullptr, nullptr, panel);
}

// Stores the gradient of the output twice: blocked for the product, and as right factor of the weight gradient.
template <class U>
void store_slope(const PatchShape& s, const float* slope, const Work<U>& w, int64_t start, int64_t at, int64_t count, int64_t rows,
                 typename U::Value* blocked) {
  for (int64_t r = 0; r < count; r += 2) {
    const bool has_odd = r + 1 < count;
    for (int64_t n = 0; n < std::max(w.wide, round_up(s.out, U::kDepth)); n += kLanes) {
      const int64_t left = s.out - n;
      const int lanes = int(left < 0 ? 0 : left < kLanes ? left : kLanes);
      Vec v[2] = {};
      for (int odd = 0; odd <= int(has_odd); odd++) {
        v[odd] = load_part(slope + (start + at + r + odd) * s.out + n, lanes);
        if (n < round_up(s.out, U::kColumns)) U::put(at_column<U>(blocked, rows, n) + (r + odd) * U::kColumns, v[odd]);
      }
      if (n < w.wide)
        GradientRows<U>::put_right(v[0], v[1], has_odd, w.chunk_rows, n / U::kWide * U::kWide, at + r, int(n % U::kWide), w.slopes);
    }
  }
}

// Writes the gradient of the images' pixels in one row block, and the columns that the weight gradient reads.
template <class U>
void backward_rows(const PatchShape& s, const PatchInputs& in, const float* slope, const Work<U>& w, int64_t start, int64_t at,
                   int64_t count, int worker, float* out) {
  typedef typename U::Value Value;
  const int64_t rows = round_up(count, U::kRows), depth = s.depth(), c = s.images.channels;
  const int64_t room = round_up(depth, kBlock) + kBlock;
  float* sums = worker_scratch(worker, rows * round_up(depth, U::kWide) + 3 * room + row_block_size<U>(rows, s.out));
  float* line = sums + rows * round_up(depth, U::kWide);
  float* values = line + room;  // of two rows
  Value* blocked = reinterpret_cast<Value*>(values + 2 * room);
  store_slope<U>(s, slope, w, start, at, count, rows, blocked);
  U::begin();
  for (int64_t n = 0; n < depth; n += U::kWide)
    for (int64_t r = 0; r < rows; r += U::kRows)
      U::multiply(sums + n * rows + r * U::kWide, blocked + r * U::kColumns, rows, w.weights + n * round_up(s.out, U::kDepth), s.out);
  U::end();
  for (int64_t r = 0; r < count; r++) {
    float* value = values + r % 2 * room;
    for (int64_t n = 0; n < depth; n += U::kWide) memcpy(line + n, sums + n * rows + r * U::kWide, U::kWide * 4);
    for (int64_t tap = 0; tap < s.taps(); tap++) {
      const int64_t pixel = s.pixel(start + at + r, tap);
      if (in.norm_weight) norm_row(in.x + pixel, line + tap * c, c, value + tap * c, out + pixel);
      else {
        memcpy(value + tap * c, in.x + pixel, c * 4);
        memcpy(out + pixel, line + tap * c, c * 4);
      }
    }
    if (r % 2 || r + 1 == count)
      GradientRows<U>::put_left(values, r % 2 ? values + room : nullptr, depth, w.chunk_rows, at + r / 2 * 2, w.columns);
  }
}

template <class U>
void weight_gradients(const PatchShape& s, const Work<U>& w, int64_t rows) {
  typedef GradientRows<U> G;
  const int64_t group = kSlopeColumns * U::kWide, depth = s.depth();
  G::clear_left(depth, w.chunk_rows, rows, w.columns);
  parallel(ceil_div(w.wide, group), [&](int64_t task, int) {
    const int64_t j0 = task * group, j1 = w.wide - j0 < group ? w.wide : j0 + group;
    U::begin();
    for (int64_t j = j0; j < j1; j += U::kWide) G::clear_right(w.chunk_rows, rows, j, w.slopes);
    G::add(w.columns, w.slopes, depth, w.chunk_rows, rows, j0, j1, w.sums, w.wide);
    for (int64_t j = j0; j < j1; j += U::kWide) add_right_sums<U>(w.slopes, w.chunk_rows, rows, j, w.slope_sums);
    U::end();
  });
}

template <class U>
void finish_channel(const PatchShape& s, const PatchInputs& in, const Work<U>& w, const Outputs& out, int64_t c) {
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

template <class U>
void backward(const PatchShape& s, const PatchInputs& in, const float* slope, const Outputs& out) {
  const Work<U> w = plan_work<U>(s);
  clear_rest(s, out.x);
  memset(w.sums, 0, w.high * w.wide * 4);
  memset(w.slope_sums, 0, w.wide * 4);
  parallel(ceil_div(s.depth(), U::kWide), [&](int64_t task, int worker) {
    pack_backward<U>(s, in, task * U::kWide, worker, w.weights + task * U::kWide * round_up(s.out, U::kDepth));
  });
  for (int64_t start = 0; start < s.rows(); start += w.chunk_rows) {
    const int64_t count = s.rows() - start < w.chunk_rows ? s.rows() - start : w.chunk_rows;
    const RowCut cut(count, U::kRows);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      backward_rows<U>(s, in, slope, w, start, cut.first(task), cut.count(task), worker, out.x);
    });
    weight_gradients<U>(s, w, count);
  }
  parallel(s.images.channels, [&](int64_t c, int) { finish_channel<U>(s, in, w, out, c); });
  memcpy(out.bias, w.slope_sums, s.out * 4);
}

int patch_gradient(int64_t unit, void** params, int* dims, int64_t** shapes) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 3;
  const PatchShape s = read_shape(shapes[1], dims[2], shapes[2]);
  OperatorLock lock;
  with_unit(unit, [&](auto u) {
    backward<decltype(u)>(s, {p[1], nullptr, nullptr, p[2], nullptr}, p[0], {q[0], nullptr, nullptr, q[1], q[2]});
  });
  return 0;
}

int norm_patch_gradient(int64_t unit, void** params, int* dims, int64_t** shapes) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 5;
  const PatchShape s = read_shape(shapes[1], dims[4], shapes[4]);
  OperatorLock lock;
  with_unit(unit, [&](auto u) {
    backward<decltype(u)>(s, {p[1], p[2], p[3], p[4], nullptr}, p[0], {q[0], q[1], q[2], q[3], q[4]});
  });
  return 0;
}

}  // namespace

// gradient of the output, x, weight -> gradients of x, weight, bias
extern "C" int convnext_patch_gradient(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  return patch_gradient(kFloat32, params, dims, shapes);
}

// gradient of the output, x, norm weight and bias, weight -> gradients of x, norm weight and bias, weight, bias
extern "C" int convnext_norm_patch_gradient(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  return norm_patch_gradient(kFloat32, params, dims, shapes);
}

// Both with products in bfloat16.
extern "C" int convnext_patch_gradient_bfloat16(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  return patch_gradient(low_unit(), params, dims, shapes);
}
extern "C" int convnext_norm_patch_gradient_bfloat16(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  return norm_patch_gradient(low_unit(), params, dims, shapes);
}

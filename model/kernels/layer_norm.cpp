// LayerNorm over the last axis with its affine part, and its gradient.
#include "layer_norm.h"

#include "pool.h"

namespace {

constexpr int64_t kNormRows = 256;  // rows of a task; parameter gradients are summed within a task, then over tasks in order

struct Matrix {
  int64_t rows, channels;
  int64_t tasks() const { return ceil_div(rows, kNormRows); }
};

Matrix read_shape(int dims, const int64_t* shape) {
  Matrix m = {1, shape[dims - 1]};
  for (int i = 0; i < dims - 1; i++) m.rows *= shape[i];
  return m;
}

void norm_rows(Matrix m, const float* x, const float* weight, const float* bias, int64_t task, float* out) {
  const int64_t last = (task + 1) * kNormRows < m.rows ? (task + 1) * kNormRows : m.rows;
  for (int64_t r = task * kNormRows; r < last; r++) {
    const Moments moments = row_moments(x + r * m.channels, m.channels);
    for (int64_t c = 0; c < m.channels; c += kLanes) {
      const int lanes = int(m.channels - c < kLanes ? m.channels - c : kLanes);
      const Vec value = (load_part(x + r * m.channels + c, lanes) - moments.mean) * moments.rstd;
      store_part(out + r * m.channels + c, value * load_part(weight + c, lanes) + load_part(bias + c, lanes), lanes);
    }
  }
}

// Gradient of x, and this task's sums for weight and bias: sums (2, channels rounded up).
void norm_rows_gradient(Matrix m, const float* slope, const float* x, const float* weight, int64_t task, int worker,
                        float* sums, float* out) {
  const int64_t wide = round_up(m.channels, kLanes), last = (task + 1) * kNormRows < m.rows ? (task + 1) * kNormRows : m.rows;
  float* scaled = worker_scratch(worker, 2 * wide);
  float* values = scaled + wide;
  memset(sums, 0, 2 * wide * 4);
  for (int64_t r = task * kNormRows; r < last; r++) {
    const float* from = slope + r * m.channels;
    for (int64_t c = 0; c < m.channels; c += kLanes) {
      const int lanes = int(m.channels - c < kLanes ? m.channels - c : kLanes);
      store(scaled + c, load_part(from + c, lanes) * load_part(weight + c, lanes));
    }
    norm_row(x + r * m.channels, scaled, m.channels, values, out + r * m.channels);
    for (int64_t c = 0; c < m.channels; c += kLanes) {
      const Vec v = load_part(from + c, int(m.channels - c < kLanes ? m.channels - c : kLanes));
      store(sums + c, load(sums + c) + v * load(values + c));
      store(sums + wide + c, load(sums + wide + c) + v);
    }
  }
}

}  // namespace

// x, weight, bias -> out
extern "C" int convnext_layer_norm(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  const Matrix m = read_shape(dims[0], shapes[0]);
  OperatorLock lock;
  parallel(m.tasks(), [&](int64_t task, int) { norm_rows(m, p[0], p[1], p[2], task, static_cast<float*>(params[3])); });
  return 0;
}

// gradient of the output, x, weight -> gradients of x, weight, bias
extern "C" int convnext_layer_norm_gradient(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 3;
  const Matrix m = read_shape(dims[0], shapes[0]);
  const int64_t wide = round_up(m.channels, kLanes);
  OperatorLock lock;
  float* sums = shared_workspace(m.tasks() * 2 * wide);
  parallel(m.tasks(), [&](int64_t task, int worker) {
    norm_rows_gradient(m, p[0], p[1], p[2], task, worker, sums + task * 2 * wide, q[0]);
  });
  for (int64_t c = 0; c < m.channels; c++) {
    q[1][c] = q[2][c] = 0;
    for (int64_t task = 0; task < m.tasks(); task++) {
      q[1][c] += sums[task * 2 * wide + c];
      q[2][c] += sums[task * 2 * wide + wide + c];
    }
  }
  return 0;
}

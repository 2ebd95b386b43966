// The product over patches, forward.
#include "patch.h"

namespace {

// Copies the values of one patch to a line, normalised if there is a norm.
void gather_patch(const PatchShape& s, const PatchInputs& in, int64_t row, float* line) {
  const int64_t c = s.images.channels;
  if (in.norm_weight == nullptr) {
    for (int64_t y = 0; y < s.size; y++) memcpy(line + y * s.size * c, in.x + s.pixel(row, y * s.size), s.size * c * 4);
    return;
  }
  for (int64_t tap = 0; tap < s.taps(); tap++, line += c) {
    const float* pixel = in.x + s.pixel(row, tap);
    const Moments m = row_moments(pixel, c);
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      store_part(line + k, (load_part(pixel + k, lanes) - m.mean) * m.rstd, lanes);
    }
  }
}

// A panel of B[(tap, c)][d] = weight[d][c][tap] * norm_weight[c], and the folded bias.
void pack_forward(const PatchShape& s, const PatchInputs& in, int64_t n0, float* panel, float* bias) {
  const int64_t c = s.images.channels, taps = s.taps();
  if (taps == 1) pack_panel_transposed(in.weight, c, c, n0, s.out, in.norm_weight, nullptr, panel);
  for (int64_t i = 0; i < kPanel; i++) {
    const bool real = n0 + i < s.out;
    float sum = real ? in.bias[n0 + i] : 0.0f;
    for (int64_t k = 0; k < c && (taps > 1 || in.norm_weight); k++)
      for (int64_t tap = 0; tap < taps; tap++) {
        const float weight = real ? in.weight[((n0 + i) * c + k) * taps + tap] : 0.0f;
        if (taps > 1) panel[(tap * c + k) * kPanel + i] = in.norm_weight ? weight * in.norm_weight[k] : weight;
        if (in.norm_weight) sum += weight * in.norm_bias[k];
      }
    bias[n0 + i] = sum;
  }
}

void multiply_rows(const PatchShape& s, const PatchInputs& in, const float* weights, const float* bias, int64_t first,
                   int64_t count, int worker, float* out) {
  const int64_t rows = round_up(count, kTileRows), depth = s.depth();
  float* blocked = worker_scratch(worker, blocked_size(rows, depth) + depth + kBlock);
  float* line = blocked + blocked_size(rows, depth);
  for (int64_t r = 0; r < count; r++) {
    gather_patch(s, in, first + r, line);
    store_blocked(line, depth, rows, r, blocked);
  }
  for (int64_t n = 0; n < s.out; n += kPanel)
    for (int64_t r = 0; r < rows; r += kTileRows) {
      Tile tile;
      multiply(tile, blocked + r * kBlock, rows, weights + n * depth, depth);
      for (int i = 0; i < kTileRows && r + i < count; i++)
        for (int v = 0; v < kPanelVecs; v++) {
          const int64_t column = n + v * kLanes;
          if (column < s.out)
            store_part(out + (first + r + i) * s.out + column, tile.v[i][v] + load(bias + column),
                       int(s.out - column < kLanes ? s.out - column : kLanes));
        }
    }
}

int forward(const PatchShape& s, const PatchInputs& in, float* out) {
  OperatorLock lock;
  const int64_t wide = round_up(s.out, kPanel);
  float* weights = shared_workspace(s.depth() * wide + wide);
  float* bias = weights + s.depth() * wide;
  parallel(wide / kPanel, [&](int64_t task, int) {
    pack_forward(s, in, task * kPanel, weights + task * kPanel * s.depth(), bias);
  });
  const RowCut cut(s.rows());
  parallel(cut.tasks, [&](int64_t task, int worker) {
    multiply_rows(s, in, weights, bias, cut.first(task), cut.count(task), worker, out);
  });
  return 0;
}

}  // namespace

// x, weight (D, C, k, k), bias -> out (N, H / k, W / k, D)
extern "C" int convnext_patch(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  return forward(read_shape(shapes[0], dims[1], shapes[1]), {p[0], nullptr, nullptr, p[1], p[2]}, static_cast<float*>(params[3]));
}

// x, norm weight and bias, weight, bias -> out
extern "C" int convnext_norm_patch(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  return forward(read_shape(shapes[0], dims[3], shapes[3]), {p[0], p[1], p[2], p[3], p[4]}, static_cast<float*>(params[5]));
}

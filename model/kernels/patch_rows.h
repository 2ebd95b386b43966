// A product over patches, with LayerNorm before or after it, on what computes products (units.h).
#pragma once
#include <vector>

#include "patch.h"
#include "units.h"
#include "workspace.h"

// sum + a * b. Bits of earlier versions: a Linear fuses both steps, a convolution rounds the product first.
INLINE float add_product(float sum, float a, float b, bool is_fused) {
  if (is_fused) return fmaf(a, b, sum);
  float product = a * b;
  asm("" : "+x"(product));  // -ffp-contract would fuse them
  return sum + product;
}

inline void norm_in_place(float* row, int64_t c, const float* weight, const float* bias) {
  const Moments m = row_moments(row, c);
  for (int64_t k = 0; k < c; k += kLanes) {
    const int lanes = int(c - k < kLanes ? c - k : kLanes);
    store_part(row + k, (load_part(row + k, lanes) - m.mean) * m.rstd * load(weight + k) + load(bias + k), lanes);
  }
}

template <class U>
struct PackedPatch {
  float *bias, *last_weight, *last_bias;  // of the LayerNorm behind the product
  typename U::Value* weights;

  int64_t divide(const PatchShape& s, float* buffer) {
    const int64_t wide = round_up(s.out, U::kWide), depth = round_up(s.depth(), U::kDepth);
    bias = buffer;
    last_weight = bias + round_up(wide, kCacheLineFloats);
    last_bias = last_weight + round_up(wide, kCacheLineFloats);
    weights = reinterpret_cast<typename U::Value*>(last_bias + round_up(wide, kCacheLineFloats));
    return 3 * round_up(wide, kCacheLineFloats) + wide * depth * int64_t(sizeof(typename U::Value)) / 4;
  }

  // B[(tap, c)][d] = weight[d][c][tap] * norm_weight[c], and the folded bias.
  void fill(const PatchShape& s, const PatchInputs& in, const float* after_weight, const float* after_bias) const {
    const int64_t c = s.images.channels, taps = s.taps(), depth = s.depth();
    parallel(ceil_div(s.out, U::kWide), [&](int64_t task, int) {
      const int64_t n0 = task * U::kWide, columns = s.out - n0 < U::kWide ? s.out - n0 : U::kWide;
      std::vector<float> rows(columns * depth);  // weights with the patch's values in the order (row, column, channel)
      for (int64_t i = 0; i < columns; i++) {
        const float* weight = in.weight + (n0 + i) * depth;
        float sum = in.bias[n0 + i];
        for (int64_t k = 0; in.norm_weight && k < c; k++)
          for (int64_t tap = 0; tap < taps; tap++) sum = add_product(sum, weight[k * taps + tap], in.norm_bias[k], taps == 1);
        bias[n0 + i] = sum;
        for (int64_t k = 0; k < c; k++)
          for (int64_t tap = 0; tap < taps; tap++)
            rows[i * depth + tap * c + k] = weight[k * taps + tap] * (in.norm_weight ? in.norm_weight[k] : 1.0f);
      }
      U::pack_transposed(rows.data(), depth, depth, 0, columns, nullptr, nullptr, weights + n0 * round_up(depth, U::kDepth));
    });
    if (after_weight == nullptr) return;
    memcpy(last_weight, after_weight, s.out * 4);
    memcpy(last_bias, after_bias, s.out * 4);
  }
};

// Copies one patch to row `r` of a row block, normalised if `is_normed`; `line` has room for the patch and a vector.
template <class U>
void gather_patch(const PatchShape& s, const float* x, bool is_normed, int64_t row, int64_t rows, int64_t r, float* line,
                  typename U::Value* blocked) {
  const int64_t c = s.images.channels, depth = s.depth();
  for (int64_t y = 0; y < s.size; y++) memcpy(line + y * s.size * c, x + s.pixel(row, y * s.size), s.size * c * 4);
  for (float* pixel = line; is_normed && pixel < line + depth; pixel += c) {
    const Moments m = row_moments(pixel, c);
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      store_part(pixel + k, (load_part(pixel + k, lanes) - m.mean) * m.rstd, lanes);
    }
  }
  for (int64_t k = 0; k < round_up(depth, U::kDepth); k += kLanes) {
    const Vec value = k >= depth ? Vec{} : load_part(line + k, int(depth - k < kLanes ? depth - k : kLanes));
    U::put(at_column<U>(blocked, rows, k) + r * U::kColumns, value);
  }
}

template <class U>
void multiply_rows(const PatchShape& s, const PackedPatch<U>& p, bool is_normed, bool has_last_norm, const float* x, int64_t first,
                   int64_t count, int worker, float* out) {
  const int64_t rows = round_up(count, U::kRows), depth = s.depth(), room = round_up(depth, kBlock) + kBlock;
  float* line = worker_scratch(worker, room + row_block_size<U>(rows, depth));
  auto* blocked = reinterpret_cast<typename U::Value*>(line + room);
  for (int64_t r = 0; r < count; r++) gather_patch<U>(s, x, is_normed, first + r, rows, r, line, blocked);
  U::begin();
  for (int64_t n = 0; n < s.out; n += U::kWide)
    for (int64_t r = 0; r < rows; r += U::kRows) {
      alignas(64) float tile[U::kRows * U::kWide];
      U::multiply(tile, blocked + r * U::kColumns, rows, p.weights + n * round_up(depth, U::kDepth), depth);
      for (int i = 0; i < U::kRows && r + i < count; i++)
        for (int64_t v = 0; v < U::kWide && n + v < s.out; v += kLanes)
          store_part(out + (first + r + i) * s.out + n + v, load(tile + i * U::kWide + v) + load(p.bias + n + v),
                     int(s.out - n - v < kLanes ? s.out - n - v : kLanes));
    }
  U::end();
  for (int64_t r = first; has_last_norm && r < first + count; r++) norm_in_place(out + r * s.out, s.out, p.last_weight, p.last_bias);
}

template <class U>
void forward_patch(const PatchShape& s, const PackedPatch<U>& p, bool is_normed, bool has_last_norm, const float* x, float* out) {
  const RowCut cut(s.rows(), U::kRows);
  parallel(cut.tasks, [&](int64_t task, int worker) {
    multiply_rows<U>(s, p, is_normed, has_last_norm, x, cut.first(task), cut.count(task), worker, out);
  });
}

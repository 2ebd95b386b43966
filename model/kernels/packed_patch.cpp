// Stem, downsampling and head with weights that were packed once: a product over patches, with LayerNorm before or after.
#include "packed.h"
#include "patch.h"
#include "workspace.h"

#include <vector>

namespace {

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
    std::vector<float> rows(s.out * depth), scale(depth);
    for (int64_t d = 0; d < s.out; d++) {
      float sum = in.bias[d];
      for (int64_t k = 0; k < c; k++)
        for (int64_t tap = 0; tap < taps; tap++) {
          const float weight = in.weight[(d * c + k) * taps + tap];
          rows[d * depth + tap * c + k] = weight;
          if (in.norm_weight) sum += weight * in.norm_bias[k];
        }
      bias[d] = sum;
    }
    for (int64_t k = 0; k < depth; k++) scale[k] = in.norm_weight ? in.norm_weight[k % c] : 1.0f;
    for (int64_t n = 0; n < s.out; n += U::kWide)
      U::pack_transposed(rows.data(), depth, depth, n, s.out, scale.data(), nullptr, weights + n * round_up(depth, U::kDepth));
    if (after_weight == nullptr) return;
    memcpy(last_weight, after_weight, s.out * 4);
    memcpy(last_bias, after_bias, s.out * 4);
  }
};

void norm_in_place(float* row, int64_t c, const float* weight, const float* bias) {
  const Moments m = row_moments(row, c);
  for (int64_t k = 0; k < c; k += kLanes) {
    const int lanes = int(c - k < kLanes ? c - k : kLanes);
    store_part(row + k, (load_part(row + k, lanes) - m.mean) * m.rstd * load(weight + k) + load(bias + k), lanes);
  }
}

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
void multiply_rows(const PatchShape& s, const PackedHeader& h, const PackedPatch<U>& p, const float* x, int64_t first,
                   int64_t count, int worker, float* out) {
  const int64_t rows = round_up(count, U::kRows), depth = s.depth(), room = round_up(depth, kBlock) + kBlock;
  float* line = worker_scratch(worker, room + row_block_size<U>(rows, depth));
  auto* blocked = reinterpret_cast<typename U::Value*>(line + room);
  for (int64_t r = 0; r < count; r++) gather_patch<U>(s, x, h.has_norm, first + r, rows, r, line, blocked);
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
  for (int64_t r = first; h.has_last_norm && r < first + count; r++) norm_in_place(out + r * s.out, s.out, p.last_weight, p.last_bias);
}

}  // namespace

// Packs a product over patches of size x size pixels: weight (D, C, k, k), bias, weight and bias of the norm before and of
// the norm behind it (null without one). Returns the bytes that `blob` needs; without one only this.
extern "C" int64_t convnext_pack_patch(int64_t unit, int64_t channels, int64_t out, int64_t size, const float* const* in, void* blob) {
  const PatchShape s = {{1, size, size, channels}, size, out};
  int64_t bytes = 0;
  with_unit(unit, [&](auto u) {
    PackedPatch<decltype(u)> p;
    bytes = sizeof(PackedHeader) + 4 * p.divide(s, nullptr);
    if (blob == nullptr) return;
    memset(blob, 0, bytes);
    *static_cast<PackedHeader*>(blob) = {unit, channels, out, size, in[2] != nullptr, in[4] != nullptr, 0, bytes};
    p.divide(s, packed_values(blob));
    p.fill(s, {nullptr, in[2], in[3], in[0], in[1]}, in[4], in[5]);
  });
  return bytes;
}

// x (N, H, W, C), packed weights -> out (N, H / k, W / k, D)
extern "C" int convnext_packed_patch(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const PackedHeader& h = *static_cast<const PackedHeader*>(params[1]);
  const PatchShape s = {{shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]}, h.size, h.out};
  if (s.images.channels != h.channels || !unit_is_supported(h.unit)) return 1;
  OperatorLock lock;
  with_unit(h.unit, [&](auto u) {
    typedef decltype(u) U;
    PackedPatch<U> p;
    p.divide(s, packed_values(params[1]));
    const RowCut cut(s.rows(), U::kRows);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      multiply_rows<U>(s, h, p, static_cast<const float*>(params[0]), cut.first(task), cut.count(task), worker,
                       static_cast<float*>(params[2]));
    });
  });
  return 0;
}

// x (N, H, W, C), norm weight and bias -> LayerNorm of the mean over the positions (N, 1, 1, C)
extern "C" int convnext_pooled_norm(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const float* const* in = reinterpret_cast<const float* const*>(params);
  const int64_t c = shapes[0][3], pixels = shapes[0][1] * shapes[0][2];
  OperatorLock lock;
  parallel(shapes[0][0], [&](int64_t image, int worker) {
    float* line = worker_scratch(worker, 3 * round_up(c, kLanes));
    float *weight = line + round_up(c, kLanes), *bias = weight + round_up(c, kLanes);
    memcpy(weight, in[1], c * 4);
    memcpy(bias, in[2], c * 4);
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      Vec sum = {};
      for (int64_t i = 0; i < pixels; i++) sum += load_part(in[0] + (image * pixels + i) * c + k, lanes);
      store(line + k, sum / float(pixels));
    }
    norm_in_place(line, c, weight, bias);
    memcpy(static_cast<float*>(params[3]) + image * c, line, c * 4);
  });
  return 0;
}

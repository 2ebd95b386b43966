// A ConvNeXt V2 block: as V1's (block_rows.h), with global response normalisation (GRN) between the products and without
// layer scale. GRN needs the norm of each hidden channel over an image, so a few images at a time are expanded to a
// workspace, their norms are summed, and then they are reduced.
#pragma once
#include "block_rows.h"

constexpr int64_t kHiddenBytes = 8 << 20;   // of the expanded images that are kept at a time: they stay in L3
constexpr int64_t kNormColumns = 256;       // hidden columns of a task that sums squares
constexpr float kNormFloor = 1e-24f;        // that of layers.GlobalResponseNorm

struct ResponseNorm { const float *gamma, *beta; };

// Writes GELU(expanded) of rows [first, first + count) of x as rows of `hidden`, from row `at` on.
template <class U>
void expand_to(const BlockShape& s, const PackedBlock<U>& p, const float* x, int64_t first, int64_t count, int worker,
               typename U::Value* hidden) {
  typedef typename U::Value Value;
  const int64_t c = s.channels(), rows = round_up(count, U::kRows), chunk = kHiddenChunk < s.hidden ? kHiddenChunk : round_up(s.hidden, U::kWide);
  float* filtered = worker_scratch(worker, rows * round_up(c, kLanes) + row_block_size<U>(rows, c) + row_block_size<U>(rows, chunk));
  Value* normalised = reinterpret_cast<Value*>(filtered + rows * round_up(c, kLanes));
  Value* active = normalised + row_block_size<U>(rows, c);
  depthwise_pixels(x, s.images, first, count, p.depthwise, p.depthwise_bias, nullptr, filtered);
  normalise_rows<U>(filtered, count, rows, c, normalised);
  U::begin();
  for (int64_t j = 0; j < s.hidden; j += kHiddenChunk) {
    const int64_t n = s.hidden - j < kHiddenChunk ? s.hidden - j : kHiddenChunk;
    expand_rows<U>(s, p, normalised, rows, count, j, n, active, nullptr);
    for (int64_t r = 0; r < count; r++)
      for (int64_t k = 0; k < n; k += U::kColumns)
        memcpy(hidden + r * s.hidden + j + k, at_column<U>(active, rows, k) + r * U::kColumns,
               (n - k < U::kColumns ? n - k : U::kColumns) * sizeof(Value));
  }
  U::end();
}

// norms = L2 norm over an image's pixels of hidden columns [j0, j1).
template <class U>
void column_norms(const typename U::Value* image, int64_t pixels, int64_t hidden, int64_t j0, int64_t j1, float* norms) {
  for (int64_t j = j0; j < j1; j += kLanes) {
    Vec sum = {};
    for (int64_t i = 0; i < pixels; i++) {
      const Vec v = U::get(image + i * hidden + j);
      sum += v * v;
    }
    sum = lane_max(sum, broadcast(kNormFloor));
    for (int lane = 0; lane < kLanes && j + lane < j1; lane++) norms[j + lane] = sqrtf(sum[lane]);
  }
}

// Replaces the norms of an image by the factors of its hidden channels: gamma * norm / (mean norm + epsilon) + 1.
inline void norms_to_factors(int64_t hidden, const float* gamma, float* norms) {
  Vec sum = {};
  for (int64_t j = 0; j < hidden; j += kLanes) sum += load_part(norms + j, int(hidden - j < kLanes ? hidden - j : kLanes));
  const float mean = lane_sum(sum) / float(hidden) + kEpsilon;
  for (int64_t j = 0; j < hidden; j++) norms[j] = gamma[j] * (norms[j] / mean) + 1.0f;
}

template <class U>
void reduce_from(const BlockShape& s, const PackedBlock<U>& p, const ResponseNorm& norm, const BlockTensors& t,
                 const typename U::Value* hidden, const float* factors, int64_t first_image, int64_t first, int64_t count, int worker) {
  typedef typename U::Value Value;
  const int64_t c = s.channels(), rows = round_up(count, U::kRows), wide = round_up(c, U::kWide), pixels = s.images.height * s.images.width;
  const int64_t chunk = kHiddenChunk < s.hidden ? kHiddenChunk : round_up(s.hidden, U::kWide);
  float* sums = worker_scratch(worker, rows * wide + row_block_size<U>(rows, chunk));
  Value* active = reinterpret_cast<Value*>(sums + rows * wide);
  U::begin();
  for (int64_t j0 = 0; j0 < s.hidden; j0 += kHiddenChunk) {
    const int64_t n = s.hidden - j0 < kHiddenChunk ? s.hidden - j0 : kHiddenChunk;
    for (int64_t r = 0; r < count; r++) {
      const float* scale = factors + ((first + r) / pixels - first_image) * s.hidden + j0;
      const Value* row = hidden + r * s.hidden + j0;
      for (int64_t k = 0; k < round_up(n, U::kDepth); k += kLanes) {
        const Vec v = k < n ? U::get(row + k) * load(scale + k) + load(norm.beta + j0 + k) : Vec{};
        U::put(at_column<U>(active, rows, k) + r * U::kColumns, first_lanes(v, int(n - k < 0 ? 0 : n - k)));
      }
    }
    reduce_rows<U>(s, p, active, rows, j0, n, sums);
  }
  U::end();
  add_residual<U>(s, p.reduce_bias, t, first, count, rows, sums);
}

// `group_images` images at a time. `workspace` has room for response_floats.
template <class U>
int64_t group_images(const BlockShape& s) {
  const int64_t bytes = s.images.height * s.images.width * s.hidden * int64_t(sizeof(typename U::Value));
  const int64_t fitting = kHiddenBytes / bytes > 0 ? kHiddenBytes / bytes : 1;
  return fitting < s.images.count ? fitting : s.images.count;
}

template <class U>
void forward_response_block(const BlockShape& s, const PackedBlock<U>& p, const ResponseNorm& norm, const BlockTensors& t) {
  typedef typename U::Value Value;
  const int64_t pixels = s.images.height * s.images.width, group = group_images<U>(s);
  float *factors, *hidden_floats;
  divide_workspace({{&factors, group * s.hidden + kLanes}, {&hidden_floats, group * pixels * s.hidden + kLanes}});
  Value* hidden = reinterpret_cast<Value*>(hidden_floats);
  for (int64_t image = 0; image < s.images.count; image += group) {
    const int64_t images = s.images.count - image < group ? s.images.count - image : group, first = image * pixels;
    const RowCut cut(images * pixels, U::kRows);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      expand_to<U>(s, p, t.x, first + cut.first(task), cut.count(task), worker, hidden + cut.first(task) * s.hidden);
    });
    const int64_t columns = ceil_div(s.hidden, kNormColumns);
    parallel(images * columns, [&](int64_t task, int) {
      const int64_t at = task / columns, j0 = task % columns * kNormColumns;
      column_norms<U>(hidden + at * pixels * s.hidden, pixels, s.hidden, j0,
                      s.hidden - j0 < kNormColumns ? s.hidden : j0 + kNormColumns, factors + at * s.hidden);
    });
    for (int64_t at = 0; at < images; at++) norms_to_factors(s.hidden, norm.gamma, factors + at * s.hidden);
    parallel(cut.tasks, [&](int64_t task, int worker) {
      reduce_from<U>(s, p, norm, t, hidden + cut.first(task) * s.hidden, factors, image, first + cut.first(task), cut.count(task), worker);
    });
  }
}

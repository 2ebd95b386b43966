// Matrix products on blocks that stay in the cache; a library's product would write them to memory (DECISIONS,
// 2026-11-24).
//
// A row block is stored in column blocks of kBlock floats: (row, k) lies at
// (k / kBlock) * rows * kBlock + row * kBlock + k % kBlock, so that the kernel addresses kTileRows rows by constants.
// A right-hand matrix is packed in panels of kPanel columns: (k, n) lies at (n / kPanel) * depth * kPanel + k * kPanel + n % kPanel.
#pragma once
#include "simd.h"

#if defined(__AVX512F__)
constexpr int kTileRows = 14;  // its 28 sums, a row of the panel and a broadcast value fill 31 of 32 registers
constexpr int kGradRows = 12;  // divides ConvNeXt-T's widths, so no sums are wasted on padding
#else
constexpr int kTileRows = 6;  // 15 of 16 registers
constexpr int kGradRows = 6;  // its 12 sums, a row of the panel and a broadcast value fill 15 of 16
#endif
constexpr int kPanelVecs = 2;  // two vectors share one broadcast value
constexpr int kPanel = kPanelVecs * kLanes;
constexpr int kBlock = 64;  // floats: four cache lines of a row lie side by side

INLINE int64_t blocked_size(int64_t rows, int64_t depth) { return rows * round_up(depth, kBlock); }
INLINE int64_t panels_size(int64_t depth, int64_t columns) { return depth * round_up(columns, kPanel); }

struct Tile { Vec v[kTileRows][kPanelVecs]; };

// tile = A (kTileRows x depth, blocked, in a block of `rows` rows) * panel (depth x kPanel).
static __attribute__((noinline, unused)) void multiply(Tile& tile, const float* a, int64_t rows, const float* panel, int64_t depth) {
  Vec acc[kTileRows][kPanelVecs] = {};
  for (int64_t k0 = 0; k0 < depth; k0 += kBlock, a += rows * kBlock) {
    const int64_t n = depth - k0 < kBlock ? depth - k0 : kBlock;
    const float* p = a;
    for (int64_t k = 0; k < n; k++, p++, panel += kPanel) {
      Vec b[kPanelVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kPanelVecs; j++) b[j] = load(panel + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < kPanelVecs; j++) acc[i][j] += broadcast(p[i * kBlock]) * b[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVecs; j++) tile.v[i][j] = acc[i][j];
}

// out (kGradRows x kPanel, leading dimension ld) += columns^T (depth x kGradRows, contiguous) * panel (depth x kPanel).
static __attribute__((noinline, unused)) void accumulate_gradient(const float* columns, const float* panel, int64_t depth, float* out, int64_t ld) {
  Vec acc[kGradRows][kPanelVecs] = {};
  for (int64_t k = 0; k < depth; k++, columns += kGradRows, panel += kPanel) {
    Vec b[kPanelVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVecs; j++) b[j] = load(panel + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kGradRows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < kPanelVecs; j++) acc[i][j] += broadcast(columns[i]) * b[j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kGradRows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVecs; j++) {
      float* at = out + i * ld + j * kLanes;
      store(at, load(at) + acc[i][j]);
    }
  }
}

// Copies one row to the columns that the weight gradients read, (k / kGradRows, chunk_rows, kGradRows); `line` must have
// room up to a multiple of kGradRows.
INLINE void store_columns(const float* line, int64_t depth, int64_t chunk_rows, int64_t row, float* columns) {
  for (int64_t k = 0; k < depth; k += kGradRows) memcpy(columns + k * chunk_rows + row * kGradRows, line + k, kGradRows * 4);
}

template <int STEP>
INLINE void exchange(Vec (&rows)[kLanes]) {
  IVec low, high;
  for (int lane = 0; lane < kLanes; lane++) {
    low[lane] = lane & STEP ? kLanes + (lane ^ STEP) : lane;
    high[lane] = lane & STEP ? kLanes + lane : lane ^ STEP;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++) {
    if (i & STEP) continue;
    const Vec a = rows[i], b = rows[i | STEP];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i | STEP] = __builtin_shuffle(a, b, high);
  }
}
INLINE void transpose(Vec (&rows)[kLanes]) {
  exchange<1>(rows);
  exchange<2>(rows);
  exchange<4>(rows);
  if (kLanes == 16) exchange<kLanes / 2>(rows);
}

// One panel of the right-hand matrix B[k][n] = scale_k[k] * scale_n[n] * source[n * ld + k] (a scale may be null).
inline void pack_panel_transposed(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns,
                                  const float* scale_k, const float* scale_n, float* panel) {
  for (int64_t half = 0; half < kPanelVecs; half++)
    for (int64_t k0 = 0; k0 < depth; k0 += kLanes) {
      const int lanes = depth - k0 < kLanes ? int(depth - k0) : kLanes;
      Vec rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        const int64_t n = n0 + half * kLanes + i;
        rows[i] = n < columns ? load_part(source + n * ld + k0, lanes) * (scale_n ? scale_n[n] : 1.0f) : Vec{};
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++)
        if (i < lanes)
          store(panel + (k0 + i) * kPanel + half * kLanes, scale_k ? rows[i] * scale_k[k0 + i] : rows[i]);
    }
}

// One panel of B[k][n] = scale_k[k] * scale_n[n] * source[k * ld + n].
inline void pack_panel(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns,
                       const float* scale_k, const float* scale_n, float* panel) {
  for (int half = 0; half < kPanelVecs; half++) {
    const int64_t n = n0 + half * kLanes;
    const int lanes = columns - n < kLanes ? int(columns - n < 0 ? 0 : columns - n) : kLanes;
    const Vec scale = scale_n ? load_part(scale_n + n, lanes) : broadcast(1.0f);
    for (int64_t k = 0; k < depth; k++) {
      const Vec row = load_part(source + k * ld + n, lanes) * scale;
      store(panel + k * kPanel + half * kLanes, scale_k ? row * scale_k[k] : row);
    }
  }
}

// Sums of outer products over rows, left^T right, for the gradients of weights. The unit decides how both are stored in
// the workspace: `left` (rows, depth) as columns, `right` (rows, columns) as panels. Rows are written two at a time; the
// first of them is even.
#pragma once
#include "units.h"

template <class U>
struct GradientRows {  // bfloat16
  typedef typename U::Value Value;
  static constexpr int kHigh = U::kRows;
  static int64_t padded(int64_t rows) { return round_up(rows, kPairBlock); }
  static int64_t left_size(int64_t rows, int64_t depth) { return padded(rows) * round_up(depth, kHigh); }
  static int64_t right_size(int64_t rows, int64_t columns) { return padded(rows) * round_up(columns, U::kWide); }

  static void put_left(const float* even, const float* odd, int64_t depth, int64_t, int64_t row, Value* left) {
    Value* to = left + row / kPairBlock * kPairBlock * round_up(depth, kHigh) + row % kPairBlock;
    for (int64_t k = 0; k < depth; k += kLanes) {
      const int lanes = int(depth - k < kLanes ? depth - k : kLanes);
      const UVec pairs = as_pairs(load_part(even + k, lanes), odd ? load_part(odd + k, lanes) : Vec{});
      alignas(64) uint32_t values[kLanes];
      memcpy(values, &pairs, sizeof values);
      for (int i = 0; i < lanes; i++) memcpy(to + (k + i) * kPairBlock, values + i, 4);
    }
  }
  // Into the panel that begins at `column`, from its column v on.
  static void put_right(Vec even, Vec odd, bool, int64_t rows, int64_t column, int64_t row, int v, Value* right) {
    const UVec pairs = as_pairs(even, odd);
    memcpy(right + column * padded(rows) + row * U::kWide + 2 * v, &pairs, sizeof pairs);
  }
  static void clear_left(int64_t depth, int64_t, int64_t count, Value* left) {
    for (int64_t row = round_up(count, 2); row < padded(count); row += 2)
      for (int64_t k = 0; k < depth; k++)
        memset(left + row / kPairBlock * kPairBlock * round_up(depth, kHigh) + k * kPairBlock + row % kPairBlock, 0, 4);
  }
  static void clear_right(int64_t rows, int64_t count, int64_t column, Value* right) {
    const int64_t from = round_up(count, 2);
    memset(right + column * padded(rows) + from * U::kWide, 0, (padded(count) - from) * U::kWide * sizeof(Value));
  }
  // sums (depth, ld) += left^T right for the columns [j0, j1), over the first `count` of `rows` rows.
  static void add(const Value* left, const Value* right, int64_t depth, int64_t rows, int64_t count, int64_t j0, int64_t j1,
                  float* sums, int64_t ld) {
    for (int64_t k = 0; k < depth; k += kHigh)
      for (int64_t j = j0; j < j1; j += U::kWide) {
        alignas(64) float tile[U::kRows * U::kWide];
        U::multiply(tile, left + k * kPairBlock, round_up(depth, kHigh), right + j * padded(rows), round_up(count, 2));
        for (int i = 0; i < kHigh && k + i < depth; i++)
          for (int v = 0; v < U::kWide; v += kLanes) {
            float* at = sums + (k + i) * ld + j + v;
            store(at, load(at) + load(tile + i * U::kWide + v));
          }
      }
  }
  static void add_left_sums(const Value* left, int64_t depth, int64_t, int64_t count, float* sums) {
    for (int64_t k = 0; k < depth; k++) {
      Vec total = {};
      for (int64_t row = 0; row < padded(count); row += kPairBlock)
        for (int i = 0; i < kPairBlock; i += kLanes) total += load_bf16(left + row * round_up(depth, kHigh) + k * kPairBlock + i);
      sums[k] += lane_sum(total);
    }
  }
  static Vec right_value(const Value* right, int64_t rows, int64_t column, int64_t row, int v) {
    UVec pairs;
    memcpy(&pairs, right + column * padded(rows) + row / 2 * 2 * U::kWide + 2 * v, sizeof pairs);
    return (Vec)(row % 2 ? pairs & 0xffff0000u : pairs << 16);
  }
};

template <>
struct GradientRows<Float32Unit> {
  static constexpr int kHigh = kGradRows;
  static int64_t left_size(int64_t rows, int64_t depth) { return rows * round_up(depth, kGradRows) + kLanes; }
  static int64_t right_size(int64_t rows, int64_t columns) { return rows * round_up(columns, kPanel); }

  // A row needs room up to a multiple of kGradRows.
  static void put_left(const float* even, const float* odd, int64_t depth, int64_t rows, int64_t row, float* left) {
    store_columns(even, depth, rows, row, left);
    if (odd) store_columns(odd, depth, rows, row + 1, left);
  }
  static void put_right(Vec even, Vec odd, bool has_odd, int64_t rows, int64_t column, int64_t row, int v, float* right) {
    float* to = right + column * rows + row * kPanel + v;
    store(to, even);
    if (has_odd) store(to + kPanel, odd);
  }
  static void clear_left(int64_t, int64_t, int64_t, float*) {}
  static void clear_right(int64_t, int64_t, int64_t, float*) {}
  static void add(const float* left, const float* right, int64_t depth, int64_t rows, int64_t count, int64_t j0, int64_t j1,
                  float* sums, int64_t ld) {
    for (int64_t k = 0; k < depth; k += kGradRows)
      for (int64_t j = j0; j < j1; j += kPanel) accumulate_gradient(left + k * rows, right + j * rows, count, sums + k * ld + j, ld);
  }
  static void add_left_sums(const float* left, int64_t depth, int64_t rows, int64_t count, float* sums) {
    for (int64_t k = 0; k < depth; k += kGradRows) {
      float total[kGradRows] = {};
      for (int64_t r = 0; r < count; r++)
        for (int i = 0; i < kGradRows; i++) total[i] += left[k * rows + r * kGradRows + i];
      for (int i = 0; i < kGradRows; i++) sums[k + i] += total[i];
    }
  }
  static Vec right_value(const float* right, int64_t rows, int64_t column, int64_t row, int v) {
    return load(right + column * rows + row * kPanel + v);
  }
};

// sums[column + 0..kWide-1] += column sums of `right`.
template <class U>
inline void add_right_sums(const typename U::Value* right, int64_t rows, int64_t count, int64_t column, float* sums) {
  for (int v = 0; v < U::kWide; v += kLanes) {
    Vec total = {};
    for (int64_t r = 0; r < count; r++) total += GradientRows<U>::right_value(right, rows, column, r, v);
    store(sums + column + v, load(sums + column + v) + total);
  }
}

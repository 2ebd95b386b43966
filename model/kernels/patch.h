// Convolutions whose stride is their size, as a matrix product over patches. An optional LayerNorm comes first; its
// weight and bias are folded into the product. Rows are patches, whose values have the order (row, column, channel).
#pragma once
#include "gemm.h"
#include "layer_norm.h"
#include "pool.h"
#include "rows.h"

struct PatchShape {
  Images images;
  int64_t size, out;
  int64_t height() const { return images.height / size; }
  int64_t width() const { return images.width / size; }
  int64_t rows() const { return images.count * height() * width(); }
  int64_t taps() const { return size * size; }
  int64_t depth() const { return taps() * images.channels; }
  // The offset of pixel `tap` of patch `row` in the images.
  int64_t pixel(int64_t row, int64_t tap) const {
    const int64_t x = row % width() * size + tap % size, y = row / width() % height() * size + tap / size;
    return ((row / (width() * height()) * images.height + y) * images.width + x) * images.channels;
  }
};

struct PatchInputs { const float *x, *norm_weight, *norm_bias, *weight, *bias; };  // the norm's may be null

// A weight of two dimensions belongs to a Linear, which has patches of one pixel.
inline PatchShape read_shape(const int64_t* x, int weight_dims, const int64_t* weight) {
  return {{x[0], x[1], x[2], x[3]}, weight_dims == 4 ? weight[2] : 1, weight[0]};
}

inline void store_blocked(const float* line, int64_t depth, int64_t rows, int64_t r, float* blocked) {
  for (int64_t k = 0; k < depth; k += kBlock)
    memcpy(blocked + k * rows + r * kBlock, line + k, (depth - k < kBlock ? depth - k : kBlock) * 4);
}

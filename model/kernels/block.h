// What the block's operators share: its shape, and how many hidden columns they compute at a time.
#pragma once
#include "depthwise.h"
#include "gemm.h"
#include "layer_norm.h"
#include "pool.h"
#include "rows.h"

constexpr int64_t kHiddenChunk = 384;  // hidden columns at a time; a multiple of kBlock and kPanel

// An image tensor and the width of the MLP's hidden layer.
struct BlockShape {
  Images images;
  int64_t hidden;
  int64_t rows() const { return images.count * images.height * images.width; }
  int64_t channels() const { return images.channels; }
};

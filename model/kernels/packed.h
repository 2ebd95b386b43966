// Weights of a part of a network, packed once for inference: a header, then floats and values of the unit, as one tensor.
#pragma once
#include "units.h"

struct PackedHeader {  // 64 bytes
  int64_t unit, channels, out, size, has_norm, has_last_norm, grn, bytes;  // `out`: columns, or a block's hidden width
};

// The memory behind the header.
INLINE float* packed_values(void* blob) { return reinterpret_cast<float*>(static_cast<char*>(blob) + sizeof(PackedHeader)); }

// Operations on an 8-bit RGB image; each gives Pillow's bits.
#pragma once
#include <cstdint>

#include "processor.h"

// A product that the compiler cannot fuse with a following sum: Pillow's are not fused, and fusing changes the rounding.
// The portable build switches fusing off for whole files (build.py).
template <typename Value>
inline Value rounded(Value product) {
#if CONVNEXT_AVX2
  asm("" : "+x"(product));
#endif
  return product;
}

// `in` and `out`: (height, width, 3), contiguous, not the same memory; one byte after `in` may be read. The pixel at x, y
// comes from m0 x + m1 y + m2, m3 x + m4 y + m5; a source outside of the image gives the colour `fill`.
void affine(const uint8_t* in, uint8_t* out, int height, int width, const double* m, const uint8_t* fill);

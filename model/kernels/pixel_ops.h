// Operations on an 8-bit RGB image of which each equals Pillow's bit by bit.
#pragma once
#include <immintrin.h>

#include <cstdint>

// A product that the compiler does not fuse with the sum behind it, since Pillow's are not.
template <typename Value>
inline Value rounded(Value product) {
  asm("" : "+x"(product));
  return product;
}

// `in` and `out`: (height, width, 3), contiguous, not the same; a byte after `in` may be read. The pixel at x, y comes
// from m0 x + m1 y + m2, m3 x + m4 y + m5; places outside of the image get the colour `fill`.
void affine(const uint8_t* in, uint8_t* out, int height, int width, const double* m, const uint8_t* fill);

// The parts of a chunk of crops: a decoder for boxes of JPEGs, and the resize.
#pragma once
#include <cstdint>

struct JpegLibrary;  // addresses of libjpeg's functions, as jpeg_box.cpp declares them

// Writes the box, with some columns before and behind it, to rows of `row_bytes` each. Returns the number of columns
// before the box, or -1 for a file that the caller must decode as a whole: damaged, of another size, or unusual.
int decode_jpeg_box(const JpegLibrary* library, const uint8_t* data, int64_t bytes, int image_height, int image_width,
                    int top, int left, int height, int width, uint8_t* out, int64_t row_bytes);

// `in`: the box's first pixel, rows `in_stride` bytes apart. `out`: (height, width, 3), contiguous. For each direction
// int32 first (n) and weights (n, taps); taps is 0 for a side that does not change. Returns 0, or 1 when memory runs out.
extern "C" int convnext_resize(const uint8_t* in, int64_t in_stride, int in_height, int in_width, uint8_t* out,
                               int height, int width, int is_vertical_first, const int32_t* first_x,
                               const int32_t* weights_x, int taps_x, const int32_t* first_y, const int32_t* weights_y,
                               int taps_y);

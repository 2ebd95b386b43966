// Decodes a box of a JPEG by the libjpeg-turbo that Pillow has loaded (DECISIONS, 2026-11-24). Pixels beside the box are
// only entropy-decoded, lines below it are not read. The caller passes a table of the library's functions.
//
// This file declares the part of libjpeg's version 6.2 interface that it uses: the library's structures begin like
// these. The library itself refuses another version or size when it creates a decoder.

#include "crops.h"

#include <csetjmp>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kInterfaceVersion = 62;  // JPEG_LIB_VERSION of libjpeg-turbo as Pillow builds it
constexpr int kToRgb = 2;        // JCS_RGB
constexpr int kMarginPixels = 8;  // chroma upsampling, by a factor of 4 at most, looks at 4 of them
constexpr int kChannels = 3;

struct Decoder;

struct Errors {
  void (*error_exit)(Decoder*);
  void (*emit_message)(Decoder*, int);
  void (*output_message)(Decoder*);
  unsigned char rest[144];
  // Our fields, behind the library's.
  std::jmp_buf way_out;
  bool has_warned;
};

struct Decoder {
  Errors* errors;
  void *memory, *progress, *client_data;
  int is_decompressor, global_state;
  void* source;
  unsigned image_width, image_height;
  int num_components, jpeg_color_space, out_color_space;
  unsigned char rest[564];
};

static_assert(sizeof(Decoder) == 632, "the size that version 6.2 has where pointers have 64 bits");

}  // namespace

struct JpegLibrary {
  Errors* (*std_error)(Errors*);
  void (*create)(Decoder*, int version, size_t size);
  void (*mem_src)(Decoder*, const unsigned char* data, unsigned long size);
  int (*read_header)(Decoder*, int require_image);
  int (*start)(Decoder*);
  void (*crop_scanline)(Decoder*, unsigned* left, unsigned* width);
  unsigned (*skip_scanlines)(Decoder*, unsigned count);
  unsigned (*read_scanlines)(Decoder*, unsigned char** rows, unsigned count);
  void (*destroy)(Decoder*);
};

namespace {

[[noreturn]] void leave(Decoder* decoder) { std::longjmp(decoder->errors->way_out, 1); }

void notice(Decoder* decoder, int level) {
  if (level < 0) decoder->errors->has_warned = true;
}

void say_nothing(Decoder*) {}

}  // namespace

int decode_jpeg_box(const JpegLibrary* library, const uint8_t* data, int64_t bytes, int image_height, int image_width,
                    int top, int left, int height, int width, uint8_t* out, int64_t row_bytes) {
  Decoder decoder;
  Errors errors;
  std::memset(&decoder, 0, sizeof decoder);
  decoder.errors = library->std_error(&errors);
  errors.error_exit = leave;
  errors.emit_message = notice;
  errors.output_message = say_nothing;
  errors.has_warned = false;
  if (setjmp(errors.way_out)) {
    library->destroy(&decoder);
    return -1;
  }
  library->create(&decoder, kInterfaceVersion, sizeof decoder);
  library->mem_src(&decoder, data, static_cast<unsigned long>(bytes));
  library->read_header(&decoder, 1);
  if (static_cast<int>(decoder.image_width) != image_width || static_cast<int>(decoder.image_height) != image_height) {
    leave(&decoder);
  }
  decoder.out_color_space = kToRgb;
  library->start(&decoder);
  const int end = left + width + kMarginPixels < image_width ? left + width + kMarginPixels : image_width;
  unsigned first = static_cast<unsigned>(left > kMarginPixels ? left - kMarginPixels : 0);
  unsigned columns = static_cast<unsigned>(end) - first;
  library->crop_scanline(&decoder, &first, &columns);
  if (static_cast<int64_t>(columns) * kChannels > row_bytes) leave(&decoder);
  if (top) library->skip_scanlines(&decoder, static_cast<unsigned>(top));
  for (int y = 0; y < height; ++y, out += row_bytes) {
    if (library->read_scanlines(&decoder, &out, 1) != 1) leave(&decoder);
  }
  library->destroy(&decoder);
  return errors.has_warned ? -1 : left - static_cast<int>(first);
}

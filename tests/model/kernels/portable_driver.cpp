// Runs the portable kernels on the cases of a file and writes what they give: for another processor, in an emulator.
// A case is int32 numbers and then bytes, as `cases` in test_portable.py writes them.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "crops.h"

#if defined(WITH_JPEG)
extern "C" {
void jpeg_std_error(), jpeg_mem_src(), jpeg_CreateDecompress(), jpeg_read_header(), jpeg_start_decompress(), jpeg_crop_scanline(), jpeg_skip_scanlines();
void jpeg_read_scanlines(), jpeg_destroy_decompress();
}

// As in crops.cpp.
struct CropJob {
  const uint8_t* data;
  int64_t bytes;
  int32_t image_height, image_width, top, left, height, width;
  const int32_t *first_x, *weights_x, *first_y, *weights_y;
  int32_t taps_x, taps_y, is_vertical_first, is_mirrored;
  uint8_t* out;
  int32_t is_done;
};
extern "C" void convnext_crops(const JpegLibrary* library, CropJob* jobs, int count, int height, int width);
#endif

extern "C" int convnext_pixel_ops(uint8_t* pixels, int images, int height, int width, const void* operations,
                                  int per_image);

namespace {

template <typename Value>
std::vector<Value> read_values(FILE* file, size_t count) {
  std::vector<Value> values(count + 64);  // the kernels may read a little further
  if (count && std::fread(values.data(), sizeof(Value), count, file) != count) throw "the file of cases is too short";
  return values;
}

void write_bytes(FILE* file, const std::vector<uint8_t>& bytes, size_t count) {
  if (std::fwrite(bytes.data(), 1, count, file) != count) throw "the results cannot be written";
}

// height, width, new height, new width, vertical first, taps across, taps down
void resize(FILE* in, FILE* out) {
  const auto n = read_values<int32_t>(in, 7);
  const auto pixels = read_values<uint8_t>(in, static_cast<size_t>(n[0]) * n[1] * 3);
  const auto first_x = read_values<int32_t>(in, n[5] ? n[3] : 0), weights_x = read_values<int32_t>(in, static_cast<size_t>(n[3]) * n[5]);
  const auto first_y = read_values<int32_t>(in, n[6] ? n[2] : 0), weights_y = read_values<int32_t>(in, static_cast<size_t>(n[2]) * n[6]);
  const size_t bytes = static_cast<size_t>(n[2]) * n[3] * 3;
  std::vector<uint8_t> result(bytes + 64);
  convnext_resize(pixels.data(), n[1] * 3, n[0], n[1], result.data(), n[2], n[3], n[4], first_x.data(), weights_x.data(),
                  n[5], first_y.data(), weights_y.data(), n[6]);
  write_bytes(out, result, bytes);
}

// images, height, width, operations an image, bytes of all operations
void pixel_ops(FILE* in, FILE* out) {
  const auto n = read_values<int32_t>(in, 5);
  const size_t bytes = static_cast<size_t>(n[0]) * n[1] * n[2] * 3;
  auto pixels = read_values<uint8_t>(in, bytes);
  const auto operations = read_values<double>(in, static_cast<size_t>(n[4]) / sizeof(double));
  convnext_pixel_ops(pixels.data(), n[0], n[1], n[2], operations.data(), n[3]);
  write_bytes(out, pixels, bytes);
}

#if defined(WITH_JPEG)
// bytes of the file, its height and width, box (top, left, height, width), new height, new width, vertical first, mirrored,
// taps across, taps down; the file fills whole words
void crop(FILE* in, FILE* out) {
  const void* functions[] = {reinterpret_cast<void*>(jpeg_std_error),         reinterpret_cast<void*>(jpeg_CreateDecompress),
                             reinterpret_cast<void*>(jpeg_mem_src),           reinterpret_cast<void*>(jpeg_read_header),
                             reinterpret_cast<void*>(jpeg_start_decompress),  reinterpret_cast<void*>(jpeg_crop_scanline),
                             reinterpret_cast<void*>(jpeg_skip_scanlines),    reinterpret_cast<void*>(jpeg_read_scanlines),
                             reinterpret_cast<void*>(jpeg_destroy_decompress)};
  const auto n = read_values<int32_t>(in, 13);
  const auto data = read_values<uint8_t>(in, static_cast<size_t>(n[0]));
  const auto first_x = read_values<int32_t>(in, n[11] ? n[8] : 0), weights_x = read_values<int32_t>(in, static_cast<size_t>(n[8]) * n[11]);
  const auto first_y = read_values<int32_t>(in, n[12] ? n[7] : 0), weights_y = read_values<int32_t>(in, static_cast<size_t>(n[7]) * n[12]);
  const size_t bytes = static_cast<size_t>(n[7]) * n[8] * 3;
  std::vector<uint8_t> result(bytes);
  CropJob job{data.data(), n[0],  n[1],  n[2],  n[3], n[4],           n[5], n[6], first_x.data(), weights_x.data(), first_y.data(),
              weights_y.data(), n[11], n[12], n[9], n[10], result.data(), 0};
  convnext_crops(reinterpret_cast<const JpegLibrary*>(functions), &job, 1, n[7], n[8]);
  if (!job.is_done) throw "a crop was not made";
  write_bytes(out, result, bytes);
}
#else
void crop(FILE*, FILE*) { throw "built without libjpeg"; }
#endif

}  // namespace

int main(int count, char** names) try {
  if (count != 3) throw "usage: driver CASES RESULTS";
  FILE* in = std::fopen(names[1], "rb");
  FILE* out = std::fopen(names[2], "wb");
  if (!in || !out) throw "a file cannot be opened";
  int32_t kind;
  void (*const run[])(FILE*, FILE*) = {resize, pixel_ops, crop};
  while (std::fread(&kind, sizeof kind, 1, in) == 1) run[kind](in, out);
  return std::fclose(out);
} catch (const char* reason) {
  std::fprintf(stderr, "%s\n", reason);
  return 1;
}

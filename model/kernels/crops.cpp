// Decodes and resizes the crops of a chunk of JPEGs in one call. So a thread takes the interpreter lock once a chunk, not
// several times an image, and threads rarely wait for it (DECISIONS, 2026-11-24).

#include "crops.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <vector>

namespace {

constexpr int kChannels = 3;
constexpr int kSpareColumns = 8 + 8 + 31;  // a margin on each side, and the columns up to the decoder's next block

// The fields, and their order, equal those of `_CropJob` in crops.py.
struct CropJob {
  const uint8_t* data;
  int64_t bytes;
  int32_t image_height, image_width, top, left, height, width;
  const int32_t *first_x, *weights_x, *first_y, *weights_y;
  int32_t taps_x, taps_y, is_vertical_first, is_mirrored;
  uint8_t* out;
  int32_t is_done;
};

void mirror(uint8_t* pixels, int height, int width) {
  for (int y = 0; y < height; ++y, pixels += static_cast<ptrdiff_t>(width) * kChannels) {
    for (int left = 0, right = width - 1; left < right; ++left, --right) {
      std::swap_ranges(pixels + left * kChannels, pixels + (left + 1) * kChannels, pixels + right * kChannels);
    }
  }
}

bool make(const JpegLibrary* library, const CropJob& job, int height, int width, std::vector<uint8_t>& scratch) {
  const int64_t row_bytes = static_cast<int64_t>(job.width + kSpareColumns) * kChannels;
  if (scratch.size() < static_cast<size_t>(row_bytes * job.height)) scratch.resize(row_bytes * job.height);
  const int before = decode_jpeg_box(library, job.data, job.bytes, job.image_height, job.image_width, job.top, job.left,
                                     job.height, job.width, scratch.data(), row_bytes);
  if (before < 0) return false;
  const uint8_t* box = scratch.data() + before * kChannels;
  if (convnext_resize(box, row_bytes, job.height, job.width, job.out, height, width, job.is_vertical_first, job.first_x,
                      job.weights_x, job.taps_x, job.first_y, job.weights_y, job.taps_y)) {
    return false;
  }
  if (job.is_mirrored) mirror(job.out, height, width);
  return true;
}

}  // namespace

// Sets each job's `is_done`. Where it is 0, the caller must decode the whole image.
extern "C" void convnext_crops(const JpegLibrary* library, CropJob* jobs, int count, int height, int width) {
  std::vector<uint8_t> scratch;
  for (CropJob* job = jobs; job != jobs + count; ++job) {
    try {
      job->is_done = make(library, *job, height, width, scratch);
    } catch (const std::bad_alloc&) {
      job->is_done = 0;
    }
  }
}

// Operations on 8-bit RGB images, one after the other and in place: maps of levels, blends with a degraded version of
// the image, affine resampling. Each gives Pillow's bits.

#include "pixel_ops.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int kChannels = 3;
constexpr int kLevels = 256;

enum Kind : int32_t { kNone, kTable, kStretch, kEqualize, kContrast, kColor, kSharpness, kAffine };

// The fields, and their order, equal those of `PIXEL_OP` in pixel_ops.py.
struct Operation {
  int32_t kind;
  float factor;
  double matrix[6];
  uint8_t table[kLevels];
  uint8_t fill[8];
};

struct Image {
  uint8_t* pixels;
  int height, width;
  int64_t count() const { return static_cast<int64_t>(height) * width; }
  int64_t bytes() const { return count() * kChannels; }
};

using Table = uint8_t[kLevels];

inline uint8_t blended(float poorer, float value, float factor) {
  const float mixed = poorer + rounded(factor * (value - poorer));
  return static_cast<uint8_t>(std::min(std::max(mixed, 0.0f), 255.0f));
}

#if CONVNEXT_AVX2
inline __m256 floats(const uint8_t* bytes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
}

// Blends as many bytes as fill whole vectors, and returns their number.
int64_t blend_vectors(const uint8_t* poorer, float factor, const Image& image) {
  const int64_t bytes = image.bytes();
  const __m256 times = _mm256_set1_ps(factor), top = _mm256_set1_ps(255.0f);
  int64_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const __m256 start = floats(poorer + i);
    __m256 mixed = start + rounded(times * (floats(image.pixels + i) - start));
    mixed = _mm256_min_ps(_mm256_max_ps(mixed, _mm256_setzero_ps()), top);
    const __m256i whole = _mm256_cvttps_epi32(mixed);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(image.pixels + i), _mm_packus_epi16(words, words));
  }
  return i;
}
#else
int64_t blend_vectors(const uint8_t*, float, const Image&) { return 0; }
#endif

// image = poorer + factor * (image - poorer), truncated to whole levels as in Pillow.
void blend(const uint8_t* poorer, float factor, const Image& image) {
  const int64_t bytes = image.bytes();
  for (int64_t i = blend_vectors(poorer, factor, image); i < bytes; ++i) {
    image.pixels[i] = blended(poorer[i], image.pixels[i], factor);
  }
}

#if CONVNEXT_AVX2 && defined(__AVX512VBMI__)
// The table's values of 64 levels.
inline __m512i looked_up(const Table& table, __m512i levels) {
  const auto quarter = [&](int i) { return _mm512_loadu_si512(table + 64 * i); };
  const __m512i low = _mm512_permutex2var_epi8(quarter(0), levels, quarter(1));
  const __m512i high = _mm512_permutex2var_epi8(quarter(2), levels, quarter(3));
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(levels), low, high);
}

// Maps as many bytes as fill whole vectors, with one table per channel, and returns their number.
int64_t map_vectors(const Table* tables, const Image& image) {
  constexpr __mmask64 kEveryThird = 0x9249249249249249;
  int64_t i = 0;
  for (; i + 64 <= image.bytes(); i += 64) {
    const __m512i levels = _mm512_loadu_si512(image.pixels + i);
    __m512i values = levels;
    for (int c = 0; c < kChannels; ++c) {
      const auto first = static_cast<int>((c + 2 * i) % kChannels);
      values = _mm512_mask_mov_epi8(values, kEveryThird << first, looked_up(tables[c], levels));
    }
    _mm512_storeu_si512(image.pixels + i, values);
  }
  return i;
}
#else
int64_t map_vectors(const Table*, const Image&) { return 0; }
#endif

void map(const Table* tables, const Image& image) {
  for (int64_t i = map_vectors(tables, image); i < image.bytes(); ++i) {
    image.pixels[i] = tables[i % kChannels][image.pixels[i]];
  }
}

void map_all(const Table& table, const Image& image) {
  Table tables[kChannels];
  for (Table& copy : tables) std::memcpy(copy, table, kLevels);
  map(tables, image);
}

struct Histogram {
  int64_t counts[kLevels] = {};
  int first = 0, last = 0;
};

// The histogram of each channel. Neighbours have separate counters, so that equal ones need not wait for each other.
void count_levels(const Image& image, Histogram* histograms) {
  int32_t counts[2][kChannels][kLevels] = {};
  for (int64_t i = 0; i < image.count(); ++i) {
    for (int c = 0; c < kChannels; ++c) ++counts[i & 1][c][image.pixels[i * kChannels + c]];
  }
  for (int c = 0; c < kChannels; ++c) {
    Histogram& channel = histograms[c];
    for (int level = 0; level < kLevels; ++level) channel.counts[level] = counts[0][c][level] + counts[1][c][level];
    while (!channel.counts[channel.first]) ++channel.first;
    channel.last = kLevels - 1;
    while (!channel.counts[channel.last]) --channel.last;
  }
}

void same(Table& table) {
  for (int level = 0; level < kLevels; ++level) table[level] = static_cast<uint8_t>(level);
}

void stretch(const Histogram& histogram, Table& table) {
  if (histogram.last <= histogram.first) return same(table);
  const double scale = 255.0 / (histogram.last - histogram.first);
  const double offset = rounded(histogram.first * scale);
  for (int level = 0; level < kLevels; ++level) {
    const int value = static_cast<int>(rounded(level * scale) - offset);
    table[level] = static_cast<uint8_t>(std::min(std::max(value, 0), 255));
  }
}

void equalize(const Histogram& histogram, int64_t pixels, Table& table) {
  const int64_t step = (pixels - histogram.counts[histogram.last]) / 255;
  if (histogram.first == histogram.last || !step) return same(table);
  int64_t below = step / 2;
  for (int level = 0; level < kLevels; below += histogram.counts[level++]) {
    table[level] = static_cast<uint8_t>(std::min<int64_t>(below / step, 255));
  }
}

template <typename Fill>
void map_by_histogram(const Image& image, Fill fill) {
  Histogram histograms[kChannels];
  count_levels(image, histograms);
  Table tables[kChannels];
  for (int c = 0; c < kChannels; ++c) fill(histograms[c], tables[c]);
  map(tables, image);
}

inline uint8_t gray(const uint8_t* pixel) {
  return static_cast<uint8_t>((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
}

void contrast(float factor, const Image& image) {
  int64_t sum = 0;
  for (int64_t i = 0; i < image.bytes(); i += kChannels) sum += gray(image.pixels + i);
  const int mean = static_cast<int>(static_cast<double>(sum) / static_cast<double>(image.count()) + 0.5);
  Table table;
  for (int level = 0; level < kLevels; ++level) {
    table[level] = blended(static_cast<float>(mean), static_cast<float>(level), factor);
  }
  map_all(table, image);
}

void color(float factor, const Image& image, std::vector<uint8_t>& scratch) {
  for (int64_t i = 0; i < image.bytes(); i += kChannels) {
    std::memset(scratch.data() + i, gray(image.pixels + i), kChannels);
  }
  blend(scratch.data(), factor, image);
}

// Smooths by the weights 1 1 1 / 1 5 1 / 1 1 1 over 13, rounded; the border does not change.
void sharpness(float factor, const Image& image, std::vector<uint8_t>& scratch) {
  const int64_t row = static_cast<int64_t>(image.width) * kChannels;
  std::memcpy(scratch.data(), image.pixels, image.bytes());
  for (int y = 1; y < image.height - 1; ++y) {
    const uint8_t* in = image.pixels + y * row;
    for (int64_t i = kChannels; i < row - kChannels; ++i) {
      int sum = 4 * in[i];
      for (const int64_t line : {i - row, i, i + row}) sum += in[line - kChannels] + in[line] + in[line + kChannels];
      scratch[y * row + i] = static_cast<uint8_t>((2 * sum + 13) / 26);
    }
  }
  blend(scratch.data(), factor, image);
}

void apply(const Operation& op, const Image& image, std::vector<uint8_t>& scratch) {
  switch (op.kind) {
    case kNone: return;
    case kTable: return map_all(op.table, image);
    case kStretch: return map_by_histogram(image, stretch);
    case kEqualize:
      return map_by_histogram(image, [&](const Histogram& histogram, Table& table) { equalize(histogram, image.count(), table); });
    case kContrast: return contrast(op.factor, image);
    case kColor: return color(op.factor, image, scratch);
    case kSharpness: return sharpness(op.factor, image, scratch);
    case kAffine:
      std::memcpy(scratch.data(), image.pixels, image.bytes());
      return affine(scratch.data(), image.pixels, image.height, image.width, op.matrix, op.fill);
  }
}

}  // namespace

// `pixels`: (images, height, width, 3), contiguous, changed in place; `operations`: (images, per_image). Returns 0, or 1
// when memory runs out; then only some images are changed.
extern "C" int convnext_pixel_ops(uint8_t* pixels, int images, int height, int width, const void* operations,
                                  int per_image) try {
  const auto* op = static_cast<const Operation*>(operations);
  const int64_t bytes = static_cast<int64_t>(height) * width * kChannels;
  std::vector<uint8_t> scratch(bytes + 1);
  for (int n = 0; n < images; ++n) {
    const Image image{pixels + n * bytes, height, width};
    for (int i = 0; i < per_image; ++i) apply(*op++, image, scratch);
  }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

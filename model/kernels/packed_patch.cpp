// Stem, downsampling and head with weights that were packed once: a product over patches, with LayerNorm before or after.
#include "packed.h"
#include "patch_rows.h"

// Packs a product over patches of size x size pixels: weight (D, C, k, k), bias, weight and bias of the norm before and of
// the norm behind it (null without one). Returns the bytes that `blob` needs; without one only this.
extern "C" int64_t convnext_pack_patch(int64_t unit, int64_t channels, int64_t out, int64_t size, const float* const* in, void* blob) {
  const PatchShape s = {{1, size, size, channels}, size, out};
  int64_t bytes = 0;
  with_unit(unit, [&](auto u) {
    PackedPatch<decltype(u)> p;
    bytes = sizeof(PackedHeader) + 4 * p.divide(s, nullptr);
    if (blob == nullptr) return;
    OperatorLock lock;
    memset(blob, 0, bytes);
    *static_cast<PackedHeader*>(blob) = {unit, channels, out, size, in[2] != nullptr, in[4] != nullptr, 0, bytes};
    p.divide(s, packed_values(blob));
    p.fill(s, {nullptr, in[2], in[3], in[0], in[1]}, in[4], in[5]);
  });
  return bytes;
}

// x (N, H, W, C), packed weights -> out (N, H / k, W / k, D)
extern "C" int convnext_packed_patch(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const PackedHeader& h = *static_cast<const PackedHeader*>(params[1]);
  const PatchShape s = {{shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]}, h.size, h.out};
  if (s.images.channels != h.channels || !unit_is_supported(h.unit)) return 1;
  OperatorLock lock;
  with_unit(h.unit, [&](auto u) {
    PackedPatch<decltype(u)> p;
    p.divide(s, packed_values(params[1]));
    forward_patch(s, p, h.has_norm, h.has_last_norm, static_cast<const float*>(params[0]), static_cast<float*>(params[2]));
  });
  return 0;
}

// x (N, H, W, C), norm weight and bias -> LayerNorm of the mean over the positions (N, C)
extern "C" int convnext_pooled_norm(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const float* const* in = reinterpret_cast<const float* const*>(params);
  const int64_t c = shapes[0][3], pixels = shapes[0][1] * shapes[0][2];
  OperatorLock lock;
  parallel(shapes[0][0], [&](int64_t image, int worker) {
    float* line = worker_scratch(worker, 3 * round_up(c, kLanes));
    float *weight = line + round_up(c, kLanes), *bias = weight + round_up(c, kLanes);
    memcpy(weight, in[1], c * 4);
    memcpy(bias, in[2], c * 4);
    for (int64_t k = 0; k < c; k += kLanes) {
      const int lanes = int(c - k < kLanes ? c - k : kLanes);
      Vec sum = {};
      for (int64_t i = 0; i < pixels; i++) sum += load_part(in[0] + (image * pixels + i) * c + k, lanes);
      store(line + k, sum / float(pixels));
    }
    norm_in_place(line, c, weight, bias);
    memcpy(static_cast<float*>(params[3]) + image * c, line, c * 4);
  });
  return 0;
}

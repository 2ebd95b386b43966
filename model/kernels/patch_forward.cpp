// The product over patches, forward, with weights that are packed on each call.
#include "patch_rows.h"

namespace {

int forward(int64_t unit, const PatchShape& s, const PatchInputs& in, float* out) {
  OperatorLock lock;
  with_unit(unit, [&](auto u) {
    PackedPatch<decltype(u)> p;
    p.divide(s, shared_workspace(p.divide(s, nullptr)));
    p.fill(s, in, nullptr, nullptr);
    forward_patch(s, p, in.norm_weight != nullptr, false, in.x, out);
  });
  return 0;
}

}  // namespace

// x, weight (D, C, k, k), bias -> out (N, H / k, W / k, D)
extern "C" int convnext_patch(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  return forward(kFloat32, read_shape(shapes[0], dims[1], shapes[1]), {p[0], nullptr, nullptr, p[1], p[2]}, static_cast<float*>(params[3]));
}

// x, norm weight and bias, weight, bias -> out
extern "C" int convnext_norm_patch(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  return forward(kFloat32, read_shape(shapes[0], dims[3], shapes[3]), {p[0], p[1], p[2], p[3], p[4]}, static_cast<float*>(params[5]));
}

// Both with products in bfloat16.
extern "C" int convnext_patch_bfloat16(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  return forward(low_unit(), read_shape(shapes[0], dims[1], shapes[1]), {p[0], nullptr, nullptr, p[1], p[2]}, static_cast<float*>(params[3]));
}
extern "C" int convnext_norm_patch_bfloat16(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  return forward(low_unit(), read_shape(shapes[0], dims[3], shapes[3]), {p[0], p[1], p[2], p[3], p[4]}, static_cast<float*>(params[5]));
}

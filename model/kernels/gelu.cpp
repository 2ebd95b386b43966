// GELU as an operator of its own, and its gradient.
#include "gelu.h"

#include "pool.h"

namespace {

constexpr int64_t kTaskFloats = 1 << 16;  // 256 KiB in and out: long enough for a task, and fits in L2

int64_t read_size(int dims, const int64_t* shape) {
  int64_t size = 1;
  for (int i = 0; i < dims; i++) size *= shape[i];
  return size;
}

template <class Body>
void for_vectors(int64_t size, Body body) {
  OperatorLock lock;
  parallel((size + kTaskFloats - 1) / kTaskFloats, [&](int64_t task, int) {
    const int64_t last = (task + 1) * kTaskFloats < size ? (task + 1) * kTaskFloats : size;
    for (int64_t i = task * kTaskFloats; i < last; i += kLanes) body(i, int(last - i < kLanes ? last - i : kLanes));
  });
}

}  // namespace

// x -> out
extern "C" int convnext_gelu(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float* x = static_cast<const float*>(params[0]);
  float* out = static_cast<float*>(params[1]);
  for_vectors(read_size(dims[0], shapes[0]), [=](int64_t i, int lanes) { store_part(out + i, gelu(load_part(x + i, lanes)), lanes); });
  return 0;
}

// gradient of the output, x -> gradient of x
extern "C" int convnext_gelu_gradient(int, void** params, int* dims, int64_t** shapes, const char**, void*, void*) {
  const float *slope = static_cast<const float*>(params[0]), *x = static_cast<const float*>(params[1]);
  float* out = static_cast<float*>(params[2]);
  for_vectors(read_size(dims[0], shapes[0]), [=](int64_t i, int lanes) {
    const Vec v = load_part(x + i, lanes);
    store_part(out + i, load_part(slope + i, lanes) * gelu_slope(v, normal_cdf(v)), lanes);
  });
  return 0;
}

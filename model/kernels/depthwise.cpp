// The depthwise convolution as an operator of its own, for V2 blocks.
#include "depthwise.h"

// x, weight (C, 1, 7, 7), bias -> out
extern "C" int convnext_depthwise(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* out = static_cast<float*>(params[3]);
  const Images s = {shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]};
  OperatorLock lock;
  float* packed = shared_workspace(packed_taps_size(s.channels));
  pack_depthwise(p[1], s.channels, false, packed);
  const RowCut cut(s.count * s.height * s.width);
  parallel(cut.tasks, [&](int64_t task, int) {
    depthwise_pixels(p[0], s, cut.first(task), cut.count(task), packed, p[2], nullptr, out + cut.first(task) * s.channels);
  });
  return 0;
}

// gradient of the output, x, weight -> gradients of x, weight, bias
extern "C" int convnext_depthwise_gradient(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const float* const* p = reinterpret_cast<const float* const*>(params);
  float* const* q = reinterpret_cast<float* const*>(params) + 3;
  const Images s = {shapes[1][0], shapes[1][1], shapes[1][2], shapes[1][3]};
  const int64_t taps = packed_taps_size(s.channels);
  OperatorLock lock;
  float* packed = shared_workspace(taps + tap_sums_size(s));
  pack_depthwise(p[2], s.channels, true, packed);
  depthwise_gradient(s, p[1], p[0], packed, nullptr, packed + taps, {q[0], q[1], q[2]});
  return 0;
}

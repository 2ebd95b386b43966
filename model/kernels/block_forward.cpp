// The forward pass of a V1 block whose weights may change from call to call; they are packed on each call.
#include "block_rows.h"

namespace {

int forward(int64_t unit, void** params, int64_t** shapes, bool training) {
  const float* const* in = reinterpret_cast<const float* const*>(params);
  const BlockShape s = {{shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]}, shapes[5][0]};
  const BlockWeights w = {in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8], in[9]};
  BlockTensors t = {in[0], in[10], static_cast<float*>(params[11]), nullptr, nullptr};
  if (training) {
    t.depthwise_out = static_cast<float*>(params[12]);
    t.expanded = params[13];
  }
  OperatorLock lock;
  with_unit(unit, [&](auto u) {
    PackedBlock<decltype(u)> p;
    p.divide(s, shared_workspace(p.divide(s, nullptr)));
    p.fill(s, w);
    forward_block(s, p, t);
  });
  return 0;
}

}  // namespace

// x, depthwise weight and bias, norm weight and bias, pwconv1 weight and bias, pwconv2 weight and bias, gamma, keep -> out
extern "C" int convnext_block(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return forward(kFloat32, params, shapes, false);
}

// The same, and also stores what the gradient needs: depthwise output (N, H, W, C), expanded values (N, H, W, 4C), the
// latter in bfloat16 if products are.
extern "C" int convnext_block_training(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return forward(kFloat32, params, shapes, true);
}

// Both with products in bfloat16.
extern "C" int convnext_block_bfloat16(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return forward(low_unit(), params, shapes, false);
}
extern "C" int convnext_block_training_bfloat16(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  return forward(low_unit(), params, shapes, true);
}

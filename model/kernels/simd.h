// Vectors of float for the host: 16 lanes with AVX-512, 8 with AVX2. GCC vector extensions only.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef float VecU __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));

#define INLINE static inline __attribute__((always_inline))

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

INLINE Vec broadcast(float x) { return x - Vec{}; }
INLINE Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }

// Only the first `n` lanes: load_part sets the others to zero, store_part does not write them.
INLINE Vec load_part(const float* p, int n) {
  if (n >= kLanes) return load(p);
  alignas(64) float lanes[kLanes] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
}
INLINE void store_part(float* p, Vec v, int n) {
  if (n >= kLanes) return store(p, v);
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}

// `v` with zeros from lane `n` on.
INLINE Vec first_lanes(Vec v, int n) {
  if (n >= kLanes) return v;
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  for (int i = n; i < kLanes; i++) lanes[i] = 0.0f;
  return load(lanes);
}

INLINE Vec lane_min(Vec a, Vec b) { return a < b ? a : b; }
INLINE Vec lane_max(Vec a, Vec b) { return a > b ? a : b; }

// Sum of the lanes in a fixed order (pairwise), so that results are reproducible.
INLINE float lane_sum(Vec v) {
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

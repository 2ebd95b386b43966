// The exact (erf) GELU on vectors; the absolute error of Phi is below 2e-7.
#pragma once
#include "simd.h"

constexpr float kGeluClamp = 5.6f;  // Phi(-5.6) = 1e-8; beyond it, Phi is taken as constant
// (Phi(x) - 1/2) / x as a polynomial in 2 x^2 / kGeluClamp^2 - 1: a Chebyshev fit of degree 15, highest power first.
constexpr float kPhi[] = {-0.000401805912f, 0.000894328463f, -0.000379875622f, 0.000633277523f, -0.00320995529f, 0.00555132562f, -0.00729917269f, 0.0108436914f, -0.0158444587f, 0.0209875926f, -0.0262948424f, 0.0319629125f, -0.0383469164f, 0.0469812714f, -0.0630512536f, 0.126259595f};
// 2^f for |f| <= 1/2: a Chebyshev fit of degree 6, highest power first.
constexpr float kExp2[] = {0.000154697322f, 0.00134004327f, 0.00961802527f, 0.0555032715f, 0.240226507f, 0.693147182f, 1.0f};

template <int N>
INLINE Vec polynomial(const float (&coefficients)[N], Vec s) {
  Vec sum = broadcast(coefficients[0]);
#pragma GCC unroll 32
  for (int i = 1; i < N; i++) sum = sum * s + coefficients[i];
  return sum;
}

// Phi(x), the standard normal distribution function.
INLINE Vec normal_cdf(Vec x) {
  x = lane_max(lane_min(x, broadcast(kGeluClamp)), broadcast(-kGeluClamp));
  const Vec s = x * x * (2.0f / (kGeluClamp * kGeluClamp)) - 1.0f;
  return polynomial(kPhi, s) * x + 0.5f;
}

// exp(-x^2 / 2) / sqrt(2 pi), the standard normal density.
INLINE Vec normal_density(Vec x) {
  x = lane_max(lane_min(x, broadcast(kGeluClamp)), broadcast(-kGeluClamp));
  const Vec exponent = x * x * -0.72134752044f - 1.32574806474f;
  const Vec shifted = exponent + 12582912.0f;  // 1.5 * 2^23: the sum rounds to an integer, which its low bits hold
  const Vec fraction = exponent - (shifted - 12582912.0f);
  const IVec bits = (IVec)polynomial(kExp2, fraction) + ((IVec)shifted << 23);
  return (Vec)bits;
}

INLINE Vec gelu(Vec x) { return x * normal_cdf(x); }
INLINE Vec gelu_slope(Vec x, Vec cdf) { return x * normal_density(x) + cdf; }

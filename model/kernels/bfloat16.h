// bfloat16 values, and products of them with float32 sums by the two kinds of instructions that x86-64 has: pairs
// (AVX512-BF16) and tiles (AMX). Each has a twin in plain C++ that adds in the same order, so that packing and loops can
// be tested on any processor. Intel's manual (volume 2, VDPBF16PS and TDPBF16PS) states the orders. The instructions
// take subnormal numbers as zero; the twins do not.
//
// A row block is stored in column blocks of kPairBlock values: (row, k) lies at
// (k / kPairBlock) * rows * kPairBlock + row * kPairBlock + k % kPairBlock, so that 16 rows of a block are an AMX tile.
// A panel holds pairs: (k, n) lies at k / 2 * 2 * kPairPanel + 2 * n + k % 2, filled with zeros up to a multiple of kPairBlock.
#pragma once
#include "gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>) && (!defined(__clang__) || defined(__AMX_BF16__))
#define CONVNEXT_AMX 1
#else
#define CONVNEXT_AMX 0
#endif

typedef uint16_t Bf16;  // the upper half of a float32
typedef uint32_t UVec __attribute__((vector_size(4 * kLanes)));
typedef Bf16 HalfVec __attribute__((vector_size(2 * kLanes)));
typedef Bf16 HalfVecU __attribute__((vector_size(2 * kLanes), aligned(2)));

constexpr int64_t kPairBlock = 32;  // values: one cache line of a row, and the depth of an AMX tile
constexpr int kPairPanel = 32;       // columns, for any width of vectors
constexpr int kPairVecs = kPairPanel / kLanes;
constexpr int kPairRows = 14;       // as many sums as kTileRows of AVX-512
constexpr int kTileSide = 16;       // rows and 32-bit columns of an AMX tile
constexpr int kTilesRows = 2 * kTileSide;

// Rounds to nearest, ties to even; a NaN stays one, a subnormal number becomes zero, as in VCVTNEPS2BF16.
INLINE void store_bf16(Bf16* to, Vec v) {
#if defined(__AVX512BF16__)
  *reinterpret_cast<HalfVecU*>(to) = (HalfVec)_mm512_cvtneps_pbh((__m512)v);
#else
  const UVec bits = (UVec)v, size = bits & 0x7fffffffu;
  UVec rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  rounded = size > 0x7f800000u ? bits | 0x400000u : rounded;
  rounded = size < 0x800000u ? bits & 0x80000000u : rounded;
  *reinterpret_cast<HalfVecU*>(to) = __builtin_convertvector(rounded >> 16, HalfVec);
#endif
}
INLINE Vec load_bf16(const Bf16* p) {
  return (Vec)(__builtin_convertvector((HalfVec)*reinterpret_cast<const HalfVecU*>(p), UVec) << 16);
}
INLINE float widen(Bf16 x) {
  const uint32_t bits = uint32_t(x) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

INLINE int64_t pairs_size(int64_t depth, int64_t columns) { return round_up(depth, kPairBlock) * round_up(columns, kPairPanel); }
INLINE int64_t pairs_blocked_size(int64_t rows, int64_t depth) { return rows * round_up(depth, kPairBlock); }

// One panel of B[k][n] = scale_k[k] * scale_n[n] * source[n * ld + k], of the columns from n0 on (a scale may be null).
inline void pack_pairs_transposed(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns,
                                  const float* scale_k, const float* scale_n, Bf16* panel) {
  memset(panel, 0, pairs_size(depth, kPairPanel) * 2);
  for (int64_t n = n0; n < columns && n < n0 + kPairPanel; n++)
    for (int64_t k = 0; k < depth; k += kLanes) {
      const int lanes = depth - k < kLanes ? int(depth - k) : kLanes;
      Vec row = load_part(source + n * ld + k, lanes) * (scale_n ? scale_n[n] : 1.0f);
      if (scale_k) row *= load_part(scale_k + k, lanes);
      Bf16 values[kLanes];
      store_bf16(values, row);
      for (int i = 0; i < lanes; i += 2) memcpy(panel + (k + i) * kPairPanel + 2 * (n - n0), values + i, 4);
    }
}

// Two rows as pairs: each 32-bit lane holds the value of `even` below that of `odd`, both rounded.
INLINE UVec as_pairs(Vec even, Vec odd) {
  Bf16 low[kLanes], high[kLanes];
  store_bf16(low, even);
  store_bf16(high, odd);
  HalfVec a, b;
  memcpy(&a, low, sizeof a);
  memcpy(&b, high, sizeof b);
  return __builtin_convertvector(a, UVec) | __builtin_convertvector(b, UVec) << 16;
}

// One panel of B[k][n] = scale_k[k] * scale_n[n] * source[k * ld + n].
inline void pack_pairs(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns, const float* scale_k,
                       const float* scale_n, Bf16* panel) {
  for (int64_t k = 0; k < round_up(depth, kPairBlock); k += 2)
    for (int v = 0; v < kPairPanel; v += kLanes) {
      const int64_t n = n0 + v, left = columns - n;
      const int lanes = int(left < 0 ? 0 : left < kLanes ? left : kLanes);
      const Vec scale = scale_n ? load_part(scale_n + n, lanes) : broadcast(1.0f);
      Vec rows[2] = {};
      for (int i = 0; i < 2 && k + i < depth; i++)
        rows[i] = load_part(source + (k + i) * ld + n, lanes) * scale * (scale_k ? scale_k[k + i] : 1.0f);
      const UVec pairs = as_pairs(rows[0], rows[1]);
      memcpy(panel + k * kPairPanel + 2 * v, &pairs, sizeof pairs);
    }
}

// The odd product of a pair is added first, then the even one, each rounded.
static __attribute__((noinline, unused)) void multiply_pairs_twin(float* tile, const Bf16* a, int64_t rows, const Bf16* panel, int64_t depth) {
  for (int i = 0; i < kPairRows; i++) {
    Vec acc[kPairVecs] = {};
    for (int64_t k = 0; k < depth; k += 2) {
      const Bf16* pair = a + k / kPairBlock * rows * kPairBlock + i * kPairBlock + k % kPairBlock;
      for (int v = 0; v < kPairVecs; v++) {
        UVec b;
        memcpy(&b, panel + k * kPairPanel + 2 * v * kLanes, sizeof b);
        acc[v] += broadcast(widen(pair[1])) * (Vec)(b & 0xffff0000u);
        acc[v] += broadcast(widen(pair[0])) * (Vec)(b << 16);
      }
    }
    for (int v = 0; v < kPairVecs; v++) store(tile + i * kPairPanel + v * kLanes, acc[v]);
  }
}

// tile (kPairRows x kPairPanel) = A (kPairRows x depth, in a block of `rows` rows) * panel (depth x kPairPanel); depth is even.
static __attribute__((noinline, unused)) void multiply_pairs(float* tile, const Bf16* a, int64_t rows, const Bf16* panel, int64_t depth) {
#if defined(__AVX512BF16__)
  __m512 acc[kPairRows][kPairVecs];
#pragma GCC unroll 16
  for (int i = 0; i < kPairRows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < kPairVecs; v++) acc[i][v] = _mm512_setzero_ps();
  for (int64_t k0 = 0; k0 < depth; k0 += kPairBlock, a += rows * kPairBlock) {
    const int64_t n = depth - k0 < kPairBlock ? depth - k0 : kPairBlock;
    const Bf16* p = a;
    for (int64_t k = 0; k < n; k += 2, p += 2, panel += 2 * kPairPanel) {
      __m512bh b[kPairVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kPairVecs; v++) b[v] = (__m512bh)_mm512_loadu_si512(panel + 2 * v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kPairRows; i++) {
        int32_t pair;
        memcpy(&pair, p + i * kPairBlock, 4);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int v = 0; v < kPairVecs; v++) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], both, b[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kPairRows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < kPairVecs; v++) _mm512_storeu_ps(tile + i * kPairPanel + v * kLanes, acc[i][v]);
#else
  multiply_pairs_twin(tile, a, rows, panel, depth);
#endif
}

// The eight tile registers of this thread; 0 to 3 hold sums, 4 to 7 factors.
#if CONVNEXT_AMX
struct ProcessorTiles {
  INLINE void clear() {
    __asm__ volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  INLINE void load(const Bf16* a, const Bf16* panel) {
    _tile_loadd(4, a, 64);
    _tile_loadd(5, a + kTileSide * kPairBlock, 64);
    _tile_loadd(6, panel, 4 * kPairPanel);
    _tile_loadd(7, panel + 2 * kTileSide, 4 * kPairPanel);
  }
  INLINE void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  INLINE void write(float* tile) {
    _tile_stored(0, tile, 4 * kPairPanel);
    _tile_stored(1, tile + kTileSide, 4 * kPairPanel);
    _tile_stored(2, tile + kTileSide * kPairPanel, 4 * kPairPanel);
    _tile_stored(3, tile + kTileSide * kPairPanel + kTileSide, 4 * kPairPanel);
  }
};
#endif

// Their twin: even and odd products of a tile's depth have a sum each, which are added to each other and then to the tile.
struct TwinTiles {
  float sums[4][kTileSide][kTileSide];
  Bf16 factors[4][kTileSide][kPairBlock];
  void clear() { memset(sums, 0, sizeof sums); }
  static void load_one(Bf16 (&to)[kTileSide][kPairBlock], const Bf16* from, int64_t stride) {
    for (int i = 0; i < kTileSide; i++) memcpy(to[i], from + i * stride, sizeof to[i]);
  }
  void load(const Bf16* a, const Bf16* panel) {
    load_one(factors[0], a, kPairBlock);
    load_one(factors[1], a + kTileSide * kPairBlock, kPairBlock);
    load_one(factors[2], panel, 2 * kPairPanel);
    load_one(factors[3], panel + 2 * kTileSide, 2 * kPairPanel);
  }
  void multiply_one(int sum, int a, int b) {
    for (int m = 0; m < kTileSide; m++) {
      float even[kTileSide] = {}, odd[kTileSide] = {};
      for (int k = 0; k < kTileSide; k++)
        for (int n = 0; n < kTileSide; n++) {
          even[n] += widen(factors[a][m][2 * k]) * widen(factors[b][k][2 * n]);
          odd[n] += widen(factors[a][m][2 * k + 1]) * widen(factors[b][k][2 * n + 1]);
        }
      for (int n = 0; n < kTileSide; n++) sums[sum][m][n] += even[n] + odd[n];
    }
  }
  void multiply() {
    for (int i = 0; i < 4; i++) multiply_one(i, i / 2, 2 + i % 2);
  }
  void write(float* tile) const {
    for (int i = 0; i < 4; i++)
      for (int m = 0; m < kTileSide; m++)
        memcpy(tile + (i / 2 * kTileSide + m) * kPairPanel + i % 2 * kTileSide, sums[i][m], sizeof sums[i][m]);
  }
};

// tile (kTilesRows x 32) = A (kTilesRows x depth) * panel (depth x 32), both filled up to a multiple of kPairBlock.
template <class Tiles>
__attribute__((noinline)) void multiply_tiles(float* tile, const Bf16* a, int64_t rows, const Bf16* panel, int64_t depth) {
  Tiles tiles;
  tiles.clear();
  for (int64_t k = 0; k < depth; k += kPairBlock, a += rows * kPairBlock, panel += kPairBlock * kPairPanel) {
    tiles.load(a, panel);
    tiles.multiply();
  }
  tiles.write(tile);
}

// What computes products: the types that the block and the patches are written for, and the choice among them at run time.
#pragma once
#include "bfloat16.h"

// The numbers are those of `Unit` in products.py. A twin is plain C++ that adds in the order of its instruction.
enum Unit : int64_t { kFloat32 = 0, kPairs = 1, kTiles = 2, kPairsTwin = 3, kTilesTwin = 4 };

bool unit_is_supported(int64_t unit);
int64_t low_unit();  // that of the operators that pack bfloat16 on each call
#if CONVNEXT_AMX
void begin_tiles();  // of this thread
void end_tiles();
#endif

// Each has values of type Value in row blocks of kColumns columns, and computes kRows rows and kWide columns at a time.
struct Float32Unit {
  typedef float Value;
  static constexpr int kRows = kTileRows, kWide = kPanel, kColumns = kBlock, kDepth = 1;  // kDepth: depth is a multiple
  INLINE void multiply(float* tile, const float* a, int64_t rows, const float* panel, int64_t depth) {
    ::multiply(*reinterpret_cast<Tile*>(tile), a, rows, panel, depth);
  }
  INLINE void put(float* to, Vec v) { store(to, v); }
  INLINE void put_part(float* to, Vec v, int lanes) { store_part(to, v, lanes); }
  INLINE Vec get(const float* from) { return load(from); }
  INLINE Vec get_part(const float* from, int lanes) { return load_part(from, lanes); }
  INLINE void pack_transposed(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns,
                              const float* scale_k, const float* scale_n, float* panel) {
    for (int64_t n = 0; n < kWide; n += kPanel) pack_panel_transposed(source, ld, depth, n0 + n, columns, scale_k, scale_n, panel);
  }
  INLINE void pack(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns, const float* scale_k,
                   const float* scale_n, float* panel) {
    pack_panel(source, ld, depth, n0, columns, scale_k, scale_n, panel);
  }
  INLINE void begin() {}
  INLINE void end() {}
};

struct Bf16Unit {
  typedef Bf16 Value;
  static constexpr int kWide = kPairPanel, kColumns = kPairBlock, kDepth = kPairBlock;
  INLINE void put(Bf16* to, Vec v) { store_bf16(to, v); }
  INLINE void put_part(Bf16* to, Vec v, int lanes) {
    Bf16 values[kLanes];
    store_bf16(lanes >= kLanes ? to : values, v);
    if (lanes < kLanes) memcpy(to, values, lanes * sizeof(Bf16));
  }
  INLINE Vec get(const Bf16* from) { return load_bf16(from); }
  INLINE Vec get_part(const Bf16* from, int lanes) {
    if (lanes >= kLanes) return load_bf16(from);
    Bf16 values[kLanes] = {};
    memcpy(values, from, lanes * sizeof(Bf16));
    return load_bf16(values);
  }
  INLINE void pack_transposed(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns,
                              const float* scale_k, const float* scale_n, Bf16* panel) {
    pack_pairs_transposed(source, ld, depth, n0, columns, scale_k, scale_n, panel);
  }
  INLINE void pack(const float* source, int64_t ld, int64_t depth, int64_t n0, int64_t columns, const float* scale_k,
                   const float* scale_n, Bf16* panel) {
    pack_pairs(source, ld, depth, n0, columns, scale_k, scale_n, panel);
  }
  INLINE void begin() {}
  INLINE void end() {}
};

template <bool IS_TWIN>
struct PairsUnit : Bf16Unit {
  static constexpr int kRows = kPairRows;
  INLINE void multiply(float* tile, const Bf16* a, int64_t rows, const Bf16* panel, int64_t depth) {
    (IS_TWIN ? multiply_pairs_twin : multiply_pairs)(tile, a, rows, panel, depth);
  }
};

struct TilesTwinUnit : Bf16Unit {
  static constexpr int kRows = kTilesRows;
  INLINE void multiply(float* tile, const Bf16* a, int64_t rows, const Bf16* panel, int64_t depth) {
    multiply_tiles<TwinTiles>(tile, a, rows, panel, depth);
  }
};

#if CONVNEXT_AMX
struct TilesUnit : Bf16Unit {
  static constexpr int kRows = kTilesRows;
  INLINE void multiply(float* tile, const Bf16* a, int64_t rows, const Bf16* panel, int64_t depth) {
    multiply_tiles<ProcessorTiles>(tile, a, rows, panel, depth);
  }
  INLINE void begin() { begin_tiles(); }
  INLINE void end() { end_tiles(); }
};
#else
typedef TilesTwinUnit TilesUnit;
#endif

// Calls body(Type()) with the type of `unit`.
template <class Body>
inline void with_unit(int64_t unit, Body body) {
  switch (unit) {
    case kFloat32: return body(Float32Unit());
    case kPairs: return body(PairsUnit<false>());
    case kTiles: return body(TilesUnit());
    case kPairsTwin: return body(PairsUnit<true>());
    default: return body(TilesTwinUnit());
  }
}

// Values of a panel, the columns of a packed matrix, and of a row block.
template <class U>
INLINE int64_t packed_size(int64_t depth, int64_t columns) { return round_up(depth, U::kDepth) * round_up(columns, U::kWide); }
template <class U>
INLINE int64_t row_block_size(int64_t rows, int64_t depth) { return rows * round_up(depth, U::kColumns); }
template <class U>
INLINE typename U::Value* at_column(typename U::Value* block, int64_t rows, int64_t k) {
  return block + k / U::kColumns * rows * U::kColumns + k % U::kColumns;
}

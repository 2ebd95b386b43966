#include "units.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if CONVNEXT_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

bool has_pairs() {
#if defined(__AVX512BF16__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
#else
  return false;
#endif
}

#if CONVNEXT_AMX
constexpr long kAskForState = 0x1023;  // ARCH_REQ_XCOMP_PERM: Linux gives a process the large tile state on request
constexpr long kTileData = 18;         // XFEATURE_XTILEDATA

bool ask_for_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool has_bf16 = d >> 22 & 1, has_tiles = d >> 24 & 1;
  return has_bf16 && has_tiles && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
#endif

int64_t chosen_low_unit = -1;

}  // namespace

bool unit_is_supported(int64_t unit) {
  static const bool pairs = has_pairs();
  if (unit == kPairs) return pairs;
  if (unit != kTiles) return unit >= kFloat32 && unit <= kTilesTwin;
#if CONVNEXT_AMX
  static const bool tiles = ask_for_tiles();  // threads that exist already get the state, too
  return tiles;
#else
  return false;
#endif
}

#if CONVNEXT_AMX
__attribute__((target("amx-tile"))) void begin_tiles() {
  TileShapes shapes;
  for (int t = 0; t < 8; t++) {
    shapes.row_bytes[t] = 4 * kTileSide;
    shapes.rows[t] = kTileSide;
  }
  __asm__ volatile("" ::"r"(&shapes) : "memory");  // GCC 12 takes the shapes for eight bytes
  _tile_loadconfig(&shapes);
}

__attribute__((target("amx-tile"))) void end_tiles() {
  _tile_release();  // a thread without tiles is cheaper to switch
}
#endif

int64_t low_unit() {
  if (chosen_low_unit >= 0) return chosen_low_unit;
  return unit_is_supported(kTiles) ? kTiles : unit_is_supported(kPairs) ? kPairs : kPairsTwin;
}

// Chooses the unit of the operators that pack bfloat16 on each call, for tests of the twins; -1 is the processor's.
extern "C" void convnext_choose_low_unit(int64_t unit) { chosen_low_unit = unit; }

// Returns 1 if the processor and the system allow this unit, else 0.
extern "C" int convnext_unit_supported(int64_t unit) { return unit_is_supported(unit); }

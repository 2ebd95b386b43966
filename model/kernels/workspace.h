// The shared workspace cut into parts, each named beside its size.
#pragma once
#include "pool.h"
#include "simd.h"

constexpr int64_t kCacheLineFloats = 16;  // 64 bytes: no two parts share a cache line, so their writers do not slow each other

struct WorkspacePart {
  float** start;  // set by `divide_workspace`
  int64_t floats;
};

// Points each part into the shared workspace, one behind the other.
template <int N>
inline void divide_workspace(const WorkspacePart (&parts)[N]) {
  int64_t total = 0;
  for (const WorkspacePart& part : parts) total += round_up(part.floats, kCacheLineFloats);
  float* next = shared_workspace(total);
  for (const WorkspacePart& part : parts) {
    *part.start = next;
    next += round_up(part.floats, kCacheLineFloats);
  }
}

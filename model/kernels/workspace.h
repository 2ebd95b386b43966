// The shared workspace divided into parts, each named beside its size.
#pragma once
#include "pool.h"
#include "simd.h"

constexpr int64_t kCacheLineFloats = 16;  // 64 bytes: parts share no cache line, so their writers do not slow each other down

struct WorkspacePart {
  float** start;  // set by `divide_workspace`
  int64_t floats;
};

// Sets the pointer of each part, one part behind the other in the shared workspace.
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

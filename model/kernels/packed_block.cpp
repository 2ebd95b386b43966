// Blocks of V1 and V2 with weights that were packed once.
#include "packed.h"
#include "response_rows.h"

namespace {

// GRN's weight and bias lie behind a V2 block's other parts.
INLINE int64_t response_floats(int64_t hidden) { return round_up(hidden, kCacheLineFloats); }

}  // namespace

// Packs a block's nine parameters, in the order of convnext_block, behind a header that states unit, channels and hidden
// width. A V2 block has no layer scale (null), but GRN's weight and bias as the tenth and eleventh parameter (null in V1).
// Returns the bytes that `blob` needs; without one only this.
extern "C" int64_t convnext_pack_block(int64_t unit, int64_t channels, int64_t hidden, const float* const* in, void* blob) {
  const BlockShape s = {{1, 1, 1, channels}, hidden};
  int64_t bytes = 0;
  with_unit(unit, [&](auto u) {
    PackedBlock<decltype(u)> p;
    const int64_t floats = p.divide(s, nullptr), more = in[9] ? 2 * response_floats(hidden) : 0;
    bytes = sizeof(PackedHeader) + 4 * (floats + more);
    if (blob == nullptr) return;
    OperatorLock lock;
    memset(blob, 0, bytes);
    *static_cast<PackedHeader*>(blob) = {unit, channels, hidden, 1, 0, 0, in[9] != nullptr, bytes};
    p.divide(s, packed_values(blob));
    p.fill(s, {in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8]});
    for (int i = 0; in[9] && i < 2; i++) memcpy(packed_values(blob) + floats + i * response_floats(hidden), in[9 + i], hidden * 4);
  });
  return bytes;
}

// x, packed weights -> out
extern "C" int convnext_packed_block(int, void** params, int*, int64_t** shapes, const char**, void*, void*) {
  const PackedHeader& h = *static_cast<const PackedHeader*>(params[1]);
  const BlockShape s = {{shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]}, h.out};
  if (s.channels() != h.channels || !unit_is_supported(h.unit)) return 1;
  OperatorLock lock;
  with_unit(h.unit, [&](auto u) {
    PackedBlock<decltype(u)> p;
    float* values = packed_values(params[1]);
    const float* gamma = values + p.divide(s, values);
    const BlockTensors t = {static_cast<const float*>(params[0]), nullptr, static_cast<float*>(params[2]), nullptr, nullptr};
    if (h.grn) forward_response_block(s, p, {gamma, gamma + response_floats(s.hidden)}, t);
    else forward_block(s, p, t);
  });
  return 0;
}

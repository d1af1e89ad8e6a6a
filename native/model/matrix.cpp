// Packed matrices where they lie: single rows of them (the embedding of a token).
#include <cstring>

#include "kernels/half.hpp"
#include "model/model.hpp"

namespace outpace {
namespace {

uint16_t bits_at(const uint8_t* p, int i) {
  uint16_t h;
  std::memcpy(&h, p + 2 * i, 2);
  return h;
}

float half_at(const uint8_t* p, int i) { return half_to_float(bits_at(p, i)); }

}  // namespace

size_t packed_tile_bytes(Kind kind, int groups) {
  const Format& f = kFormats[(int)kind];
  return ((size_t)groups * f.quant_bytes + 63) / 64 * 64 + ((size_t)groups * f.scale_bytes + 63) / 64 * 64;
}

void unpack_row(const Matrix& w, int row, float* out) {
  const uint8_t* tile = w.data + (size_t)(row / kTile) * w.tile_bytes;
  const int c = row % kTile;
  if (is_float(w.kind)) {
    for (int k = 0; k < w.groups * kGroup; k++) {
      const uint32_t wide = w.kind == Kind::bf16 ? (uint32_t)bits_at(tile, kTile * k + c) << 16 : 0;
      if (w.kind == Kind::f32) std::memcpy(out + k, tile + 4 * (kTile * k + c), 4);
      else if (w.kind == Kind::bf16) std::memcpy(out + k, &wide, 4);
      else out[k] = half_at(tile, kTile * k + c);
    }
    return;
  }
  const Format& f = kFormats[(int)w.kind];
  const bool has_min = w.kind == Kind::q4m || w.kind == Kind::q5m;
  const int planes = w.kind == Kind::q6s ? 2 : (w.kind == Kind::q5m || w.kind == Kind::q5s) ? 1 : 0;
  const int offset = has_min ? 0 : w.kind == Kind::q8s ? 128 : 8 << planes;
  for (int g = 0; g < w.groups; g++) {
    const uint8_t* quants = tile + (size_t)g * f.quant_bytes;
    const uint8_t* scales = tile + w.scale_offset + (size_t)g * f.scale_bytes;
    const float d = half_at(scales, c), second = f.scale_bytes == 64 ? half_at(scales, kTile + c) : 0;
    for (int k = 0; k < kGroup; k++) {
      const int i = k / 4, byte = 4 * c + k % 4;
      int q = w.kind == Kind::q8s ? quants[64 * i + byte]
              : i % 2             ? quants[64 * (i / 2) + byte] >> 4
                                  : quants[64 * (i / 2) + byte] & 15;
      for (int p = 0; p < planes; p++) q |= ((quants[256 + 64 * p + 8 * i + byte / 8] >> (byte % 8)) & 1) << (4 + p);
      const float scale = w.kind == Kind::q6s && k >= 16 ? second : d;
      out[kGroup * g + k] = scale * (float)(q - offset) + (has_min ? second : 0.0f);
    }
  }
}

void Model::move(ptrdiff_t bytes) {
  const auto move = [&](Matrix& m) { m.data += bytes; };
  move(embed);
  move(output);
  for (Layer& l : layers)
    for (Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) move(*m);
}

}  // namespace outpace

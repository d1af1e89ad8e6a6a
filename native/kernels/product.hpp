// Block product: outputs of a range of tiles for all tokens of a call. The weights of a tile are read from memory
// once and serve every block of 16 tokens from the first-level cache.
//
// Each instruction set supplies tile_groups<KIND, N, M>(...), which adds all groups of N tiles for M tokens to
// acc[M][N].
#pragma once
#include "kernels.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

template <Kind K>
struct Traits {
  static constexpr bool has_min = K == Kind::q4m || K == Kind::q5m;
  static constexpr bool halves = K == Kind::q6s;  // two scales a group
  static constexpr int planes = K == Kind::q6s ? 2 : (K == Kind::q5m || K == Kind::q5s) ? 1 : 0;
  static constexpr Number offset_sum = K == Kind::q8s   ? kSum128
                                       : K == Kind::q6s ? kLow32
                                       : K == Kind::q5s ? kSum16
                                                        : kSum8;
  static constexpr int quant_bytes = kFormats[(int)K].quant_bytes;
  static constexpr int scale_bytes = kFormats[(int)K].scale_bytes;
};

// Where the activations of tokens first ... first + M - 1 of a block of m tokens lie, by group.
struct Tokens {
  const uint8_t* block;
  int m, first;
  const uint8_t* line(int g, int i) const { return block + ((size_t)g * m + first + i) * kQuantGroupBytes; }
  const int8_t* quants(int g, int i) const { return (const int8_t*)line(g, i); }
  float number(int g, int i, Number which) const { return ((const float*)(line(g, i) + kGroup))[which]; }
  const float* floats(int k) const { return (const float*)block + (size_t)k * m + first; }
};

// acc += (dot - offset * sum) * d * scale, or dot * d * scale + min * scale * sum; the bracket is exact.
template <Kind K>
inline F scaled(F acc, F centred, F d, F low, const Tokens& t, int g, int m) {
  acc = fma(centred * d, set1(t.number(g, m, kScale)), acc);
  if constexpr (Traits<K>::has_min) acc = fma(low, set1(t.number(g, m, kScaleSum)), acc);
  return acc;
}

// Asks for one group of a tile. Hardware does so too, but stops at every page.
template <class T>
inline void fetch_group(int level, const uint8_t* quants, const uint8_t* scales) {
  if (level == 1) {
#pragma GCC unroll 8
    for (int line = 0; line < T::quant_bytes / 64; line++) prefetch(quants + 64 * line);
    prefetch(scales);
  } else if (level == 2) {
#pragma GCC unroll 8
    for (int line = 0; line < T::quant_bytes / 64; line++) prefetch_second(quants + 64 * line);
    prefetch_second(scales);
  }
}

// The group that is fetched now: of this tile or, as tiles are read N by N, of the one N further on.
constexpr int kAnyLevel = -1;  // as the Fetch says
template <class T, int N, int Level = kAnyLevel>
class Ahead {
 public:
  Ahead(const uint8_t* tile, size_t tile_bytes, int groups, const Fetch& fetch)
      : tile_bytes_(tile_bytes),
        level_(Level == kAnyLevel ? fetch.level : Level),
        groups_(groups),
        group_(fetch.bytes / (N * T::quant_bytes)) {
    tile_ = tile + (size_t)(group_ / groups * N) * tile_bytes;
    group_ %= groups;
  }
  void fetch(int n, size_t scale_offset) const {
    const uint8_t* tile = tile_ + n * tile_bytes_;
    fetch_group<T>(Level == kAnyLevel ? level_ : Level, tile + (size_t)group_ * T::quant_bytes,
                   tile + scale_offset + (size_t)group_ * T::scale_bytes);
  }
  void step() {
    if (++group_ < groups_) return;
    group_ = 0;
    tile_ += N * tile_bytes_;
  }

 private:
  const size_t tile_bytes_;
  const int level_, groups_;
  int group_;
  const uint8_t* tile_;
};

constexpr int kSums = kRegisters >= 32 ? 16 : 8;

}  // namespace
}  // namespace outpace::OUTPACE_ISA

#include OUTPACE_TILE_GROUPS

namespace outpace::OUTPACE_ISA {
namespace {

template <Kind K>
inline F load_weight(const uint8_t* tile, int k) {
  if constexpr (K == Kind::f32) return load((const float*)tile + 16 * k);
  else if constexpr (K == Kind::bf16) return load_bf16((const uint16_t*)tile + 16 * k);
  else return load_f16((const uint16_t*)tile + 16 * k);
}

inline void finish(const Product& p, int token, int tile, F acc) {
  float* out = p.out + (size_t)token * p.stride + kTile * tile;
  if (p.bias) acc = acc + load(p.bias + kTile * tile);
  if (p.accumulate) acc = acc + load(out);
  store(out, acc);
}

// Tiles begin ... end-1 for M tokens of one block, N tiles side by side.
template <Kind K, int M, int N>
void run(const Product& p, int begin, int end, Tokens tokens, int token) {
  const Matrix& w = *p.matrix;
  for (int tile = begin; tile < end; tile += N) {
    const uint8_t* data = w.data + (size_t)tile * w.tile_bytes;
    F acc[M][N];
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) acc[m][n] = zero();
    if constexpr (is_float(K)) {
      for (int k = 0; k < w.groups * kGroup; k++) {
        const float* x = tokens.floats(k);
        for (int n = 0; n < N; n++) {
          const F weight = load_weight<K>(data + n * w.tile_bytes, k);
          for (int m = 0; m < M; m++) acc[m][n] = fma(weight, set1(x[m]), acc[m][n]);
        }
      }
    } else {
      tile_groups<K, N, M>(data, w.tile_bytes, w.scale_offset, w.groups, tokens, p.fetch, acc);
    }
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) finish(p, token + m, tile + n, acc[m][n]);
  }
}

template <Kind K, int M, int N>
void run_side_by_side(const Product& p, int begin, int end, Tokens tokens, int token) {
  const int even = begin + (end - begin) / N * N;
  run<K, M, N>(p, begin, even, tokens, token);
  if constexpr (N > 1) run<K, M, 1>(p, even, end, tokens, token);
}

// Runs M, M - 1, ... tokens at once, whichever fits the rest of the block.
template <Kind K, int M>
void dispatch(const Product& p, int begin, int end, Tokens tokens, int token, int left) {
  if (left >= M) {
    // Few tokens of float kinds: several tiles side by side hide the latency of fma.
    constexpr int N = is_float(K) ? (M <= 2 ? 4 : 1) : M > 1 ? kMostTiles : 1;
    if constexpr (M == 1 && N == 1 && kMostTiles > 1) {
      if (p.fetch.tiles == 4) run_side_by_side<K, M, 4>(p, begin, end, tokens, token);
      else if (p.fetch.tiles == 2) run_side_by_side<K, M, 2>(p, begin, end, tokens, token);
      else run<K, M, 1>(p, begin, end, tokens, token);
    } else {
      run_side_by_side<K, M, N>(p, begin, end, tokens, token);
    }
    tokens.first += M;
    if (left > M) dispatch<K, M>(p, begin, end, tokens, token + M, left - M);
  } else if constexpr (M > 1) {
    dispatch<K, M - 1>(p, begin, end, tokens, token, left);
  }
}

template <Kind K>
void product_of(const Product& p, int begin, int end) {
  constexpr int most = is_float(K) ? (kRegisters >= 32 ? 8 : 4) : kMostTokens;
  const size_t group_bytes = is_float(K) ? kFloatGroupBytes : kQuantGroupBytes;
  const size_t block_bytes = group_bytes * (size_t)p.matrix->groups * kBlock;
  if (p.tokens <= kBlock) return dispatch<K, most>(p, begin, end, {p.activations, p.tokens, 0}, 0, p.tokens);
  for (int tile = begin; tile < end; tile += kMostTiles) {
    const int stop = tile + kMostTiles < end ? tile + kMostTiles : end;
    for (int token = 0; token < p.tokens; token += kBlock) {
      const int m = p.tokens - token < kBlock ? p.tokens - token : kBlock;
      dispatch<K, most>(p, tile, stop, {p.activations + block_bytes * (size_t)(token / kBlock), m, 0}, token, m);
    }
  }
}

void product(const Product& p, int begin, int end) {
  switch (p.matrix->kind) {
    case Kind::q4m:
      return product_of<Kind::q4m>(p, begin, end);
    case Kind::q4s:
      return product_of<Kind::q4s>(p, begin, end);
    case Kind::q5m:
      return product_of<Kind::q5m>(p, begin, end);
    case Kind::q5s:
      return product_of<Kind::q5s>(p, begin, end);
    case Kind::q6s:
      return product_of<Kind::q6s>(p, begin, end);
    case Kind::q8s:
      return product_of<Kind::q8s>(p, begin, end);
    case Kind::f32:
      return product_of<Kind::f32>(p, begin, end);
    case Kind::bf16:
      return product_of<Kind::bf16>(p, begin, end);
    case Kind::f16:
      return product_of<Kind::f16>(p, begin, end);
  }
}

float read(const uint8_t* lines, size_t count, const Fetch& fetch) {
  F sums[4] = {zero(), zero(), zero(), zero()};
  for (size_t i = 0; i + 4 <= count; i += 4)
    for (size_t j = 0; j < 4; j++) {
      const uint8_t* line = lines + 64 * (i + j);
      if (fetch.level == 1) prefetch(line + fetch.bytes);
      else if (fetch.level == 2) prefetch_second(line + fetch.bytes);
      sums[j] = sums[j] + load((const float*)line);
    }
  return hsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

int64_t saturate(bool quantised, int rounds) {
  if (quantised) return saturate_dots(rounds);
  F sums[kSums];
  for (F& sum : sums) sum = zero();
  F x = set1(1.0f);
  for (int r = 0; r < rounds; r++) {
    for (F& sum : sums) sum = fma(x, x, sum);
    keep(x);
  }
  for (const F& sum : sums) x = x + sum;
  keep(x);
  return (int64_t)rounds * kSums * 16;
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA

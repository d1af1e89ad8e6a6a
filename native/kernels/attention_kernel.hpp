// Grouped-query attention of up to eight query heads that share one key/value head, over one row and its tree.
//
// A page holds 16 positions of one head: keys as [head_dim][16 positions], values as [16 positions][head_dim].
// Committed positions 0 ... length-1 sit in slots of the same number; node j of the tree in slot length + j.
// A node sees the committed positions and its ancestors-or-self; these are put at their absolute position before
// the softmax, and sums run over absolute positions in ascending order in fixed groups of 16: the bits are those of
// plain decoding, whatever else the tree or the call holds. In a call of whole chains a node sees those behind it too.
#pragma once
#include "kernels.hpp"
#include "math.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

template <class T>
inline F load_as_float(const T* p) {
  if constexpr (sizeof(T) == 2) return load_f16((const uint16_t*)p);
  else return load((const float*)p);
}

template <class T>
inline void store_as(T* p, F x) {
  if constexpr (sizeof(T) == 2) store_f16((uint16_t*)p, max(min(x, set1(65504.0f)), set1(-65504.0f)));
  else store((float*)p, x);
}

template <class T>
inline const T* keys_of(const AttentionJob& j, int tile) {
  return (const T*)(j.pages + (size_t)j.page_table[tile] * j.page_bytes + j.head_offset);
}
template <class T>
inline const T* value_at(const AttentionJob& j, int slot) {
  return keys_of<T>(j, slot / 16) + (size_t)(16 + slot % 16) * j.head_dim;
}

// scores[q][slot] for every slot of N tiles.
template <class T, int Q, int N>
inline void dot_tiles(const AttentionJob& j, int q0, int tile) {
  const T* keys[N];
  F sum[Q][N];
  for (int n = 0; n < N; n++) keys[n] = keys_of<T>(j, tile + n);
  for (int q = 0; q < Q; q++)
    for (int n = 0; n < N; n++) sum[q][n] = zero();
  for (int d = 0; d < j.head_dim; d++) {
    F k[N];
    for (int n = 0; n < N; n++) k[n] = load_as_float(keys[n] + 16 * d);
    for (int q = 0; q < Q; q++) {
      const F x = set1(j.query[q0 + q][d]);
      for (int n = 0; n < N; n++) sum[q][n] = fma(k[n], x, sum[q][n]);
    }
  }
  for (int q = 0; q < Q; q++)
    for (int n = 0; n < N; n++) store(j.scores + (size_t)(q0 + q) * j.score_stride + 16 * (tile + n), sum[q][n]);
}

// Between two calls the weights have pushed the keys and values out of the caches: they are asked for ahead, the keys a
// few tiles, the values of a tile with its keys.
template <class T>
inline void fetch_ahead(const AttentionJob& j, int begin, int tile, int count, int end) {
  const size_t bytes = sizeof(T) * 16 * (size_t)j.head_dim;
  for (int i = tile; i < tile + count; i++) {
    const char* values = (const char*)keys_of<T>(j, i) + bytes;
    const bool last = i + count >= end;  // then the first keys of the head that comes next
    const char* keys = (const char*)keys_of<T>(j, last ? begin + (i + count - end) % (end - begin) : i + count) +
                       (last ? j.next_head : 0);
    for (size_t b = 0; b < bytes; b += 64) {
      prefetch(values + b);
      prefetch(keys + b);
    }
  }
}

template <class T, int Q, int N>
inline void dot_keys(const AttentionJob& j, int q0, int begin, int end) {
  int tile = begin;
  for (; tile + N <= end; tile += N) {
    if (q0 == 0) fetch_ahead<T>(j, begin, tile, N, end);
    dot_tiles<T, Q, N>(j, q0, tile);
  }
  for (; tile < end; tile++) dot_tiles<T, Q, 1>(j, q0, tile);
}

// Scores of one query become weights in place; returns the number of positions it sees. Weights outside are 0.
inline int soften(const AttentionJob& j, int q, int first, int tile_begin, int tile_end, float& total) {
  float* s = j.scores + (size_t)q * j.score_stride;
  const int node = j.node[q], depth = j.depths[node], seen = j.length + (j.whole ? j.whole : depth + 1);
  if (!j.chain) {  // from the slots of the ancestors to their positions, by way of the spare row
    float* spare = j.scores + (size_t)j.num_queries * j.score_stride;
    for (int d = depth, a = node; d >= 0; d--, a = j.parents[a]) spare[d] = s[j.length + a];
    for (int d = 0; d <= depth; d++) s[j.length + d] = spare[d];
  }
  const F lowest = set1(-__builtin_inff());
  F top = lowest;
  const int last = (seen + 15) / 16;
  for (int t = tile_begin; t < last; t++) {
    F x = load(s + 16 * t);
    if (16 * t < first || 16 * t + 16 > seen) {
      const I position = iota() + iset1((uint32_t)(16 * t));
      x = select(gt(iset1((uint32_t)seen), position) & gt(position, iset1((uint32_t)(first - 1))), x, lowest);
      store(s + 16 * t, x);
    }
    top = max(top, x);
  }
  const F highest = set1(hmax(top));
  F sum = zero();
  for (int t = tile_begin; t < last; t++) {
    const F x = load(s + 16 * t);
    const F w = select(gt(x, lowest), exp(x - highest), zero());
    sum = sum + w;
    store(s + 16 * t, w);
  }
  for (int t = last; t < tile_end; t++) store(s + 16 * t, zero());
  total = hsum(sum);
  return seen;
}

// out[q] += weight * value over the slots begin ... end-1, C registers of 16 dimensions at a time.
template <class T, int Q, int C>
inline void add_values(const AttentionJob& j, int q0, int dim, int begin, int end, F (&sum)[Q][C]) {
  for (int slot = begin; slot < end;) {
    const int stop = slot / 16 * 16 + 16 < end ? slot / 16 * 16 + 16 : end;
    const T* v = value_at<T>(j, slot) + dim;
    for (; slot < stop; slot++, v += j.head_dim) {
      F value[C];
      for (int c = 0; c < C; c++) value[c] = load_as_float(v + 16 * c);
      for (int q = 0; q < Q; q++) {
        const F w = set1(j.scores[(size_t)(q0 + q) * j.score_stride + slot]);
        for (int c = 0; c < C; c++) sum[q][c] = fma(w, value[c], sum[q][c]);
      }
    }
  }
}

template <class T, int Q, int C>
inline void mix_values(const AttentionJob& j, int q0, int dim, int first, const int* seen, const float* total) {
  F sum[Q][C];
  for (int q = 0; q < Q; q++)
    for (int c = 0; c < C; c++) sum[q][c] = zero();
  int shared = j.length;
  if (j.chain)
    for (int q = 0; q < Q; q++) shared = shared > seen[q0 + q] ? shared : seen[q0 + q];
  add_values<T, Q, C>(j, q0, dim, first < shared ? first : shared, shared, sum);
  for (int q = 0; q < Q; q++) {
    if (!j.chain) {
      int path[kMaxNodes];
      const int depth = j.depths[j.node[q0 + q]];
      for (int d = depth, a = j.node[q0 + q]; d >= 0; d--, a = j.parents[a]) path[d] = a;
      const float* w = j.scores + (size_t)(q0 + q) * j.score_stride + j.length;
      for (int d = 0; d <= depth; d++) {
        const T* v = value_at<T>(j, j.length + path[d]) + dim;
        for (int c = 0; c < C; c++) sum[q][c] = fma(set1(w[d]), load_as_float(v + 16 * c), sum[q][c]);
      }
    }
    const F scale = set1(1.0f / total[q0 + q]);
    for (int c = 0; c < C; c++) store(j.out[q0 + q] + dim + 16 * c, sum[q][c] * scale);
  }
}

template <class T, int C>
void mix_dims(const AttentionJob& j, int dim, int first, const int* seen, const float* total) {
  constexpr int most = kRegisters >= 32 ? 4 : 1;
  for (int q = 0, take; q < j.num_queries; q += take) {
    take = j.num_queries - q < most ? j.num_queries - q : most;
    if (take == 1) mix_values<T, 1, C>(j, q, dim, first, seen, total);
    else if (take == 2) mix_values<T, 2, C>(j, q, dim, first, seen, total);
    else if (take == 3) mix_values<T, 3, C>(j, q, dim, first, seen, total);
    else mix_values<T, 4, C>(j, q, dim, first, seen, total);
  }
}

template <class T>
void attend(const AttentionJob& j) {
  int first = j.length, reach = j.whole ? j.whole - 1 : 0, lows[kMaxQueries];  // the first position that any query sees
  for (int q = 0; q < j.num_queries; q++) {
    const int position = j.length + j.depths[j.node[q]];
    const int low = j.window > 0 && position + 1 > j.window ? position + 1 - j.window : 0;
    lows[q] = low;
    first = first < low ? first : low;
    reach = reach > j.node[q] ? reach : j.node[q];
  }
  const int begin = first / 16, end = (j.length + reach + 16) / 16;
  constexpr bool many = kRegisters >= 32;
  for (int q = 0, take; q < j.num_queries; q += take) {
    const int left = j.num_queries - q;
    take = many && left >= 8 ? 8 : left >= 4 ? 4 : left;
    if (take == 8) dot_keys<T, 8, 2>(j, q, begin, end);
    else if (take == 4) dot_keys<T, 4, many ? 4 : 1>(j, q, begin, end);
    else if (take == 3) dot_keys<T, 3, many ? 4 : 1>(j, q, begin, end);
    else if (take == 2) dot_keys<T, 2, many ? 4 : 2>(j, q, begin, end);
    else dot_keys<T, 1, 4>(j, q, begin, end);
  }
  int seen[kMaxQueries];
  float total[kMaxQueries];
  for (int q = 0; q < j.num_queries; q++) seen[q] = soften(j, q, lows[q], begin, end, total[q]);
  int dim = 0;
  for (; dim + 64 <= j.head_dim; dim += 64) mix_dims<T, 4>(j, dim, first, seen, total);
  for (; dim < j.head_dim; dim += 16) mix_dims<T, 1>(j, dim, first, seen, total);
}

void attention(const AttentionJob& j) {
  if (j.half) attend<uint16_t>(j);
  else attend<float>(j);
}

template <class T>
void put(const float* k, const float* v, T* head, int lane, int dim) {
  alignas(64) T t[16];
  for (int d = 0; d < dim; d += 16) {
    store_as(t, load(k + d));
    for (int i = 0; i < 16; i++) head[16 * (d + i) + lane] = t[i];
    store_as(head + (size_t)(16 + lane) * dim + d, load(v + d));
  }
}

void store_key_value(const float* k, const float* v, uint8_t* page, size_t head_offset, int lane, int dim, bool half) {
  if (half) put(k, v, (uint16_t*)(page + head_offset), lane, dim);
  else put(k, v, (float*)(page + head_offset), lane, dim);
}

template <class T>
void move(const T* from, int from_lane, T* to, int to_lane, int dim) {
  for (int d = 0; d < dim; d++) to[16 * d + to_lane] = from[16 * d + from_lane];
  __builtin_memmove(to + (size_t)(16 + to_lane) * dim, from + (size_t)(16 + from_lane) * dim, sizeof(T) * (size_t)dim);
}

void move_key_value(const uint8_t* from, int from_lane, uint8_t* to, int to_lane, size_t head_offset, int dim,
                    bool half) {
  if (half) move((const uint16_t*)(from + head_offset), from_lane, (uint16_t*)(to + head_offset), to_lane, dim);
  else move((const float*)(from + head_offset), from_lane, (float*)(to + head_offset), to_lane, dim);
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA

#include "model/multiplier.hpp"

#include <algorithm>

namespace outpace {
namespace {

constexpr int kStrip = 8;  // tiles whose outputs are taken on while they are in the first-level cache
constexpr int kRowsAtOnce = 64;

}  // namespace

Multiplier::Multiplier(const Kernels& kernels, Threads& threads)
    : kernels_(kernels), threads_(threads), desks_(threads.count()) {}

// The activations of n vectors as the product reads them.
void Multiplier::prepare(Desk& desk, const Matrix& w, const float* x, int n) const {
  const bool quantised = !is_float(w.kind), ragged = w.cols % kGroup != 0;
  uint8_t* out = desk.activations.bytes(0);
  float* row = desk.row.floats(0);
  std::fill(row + w.cols, row + w.groups * kGroup, 0.0f);
  for (int i = 0; i < n; i++, x += w.cols) {
    const int block = i / kBlock * kBlock, m = std::min(kBlock, n - block);
    if (ragged) std::copy_n(x, w.cols, row);
    (quantised ? kernels_.quantise : kernels_.interleave)(
        ragged ? row : x, w.groups, out + kernels_.activation_bytes(quantised, w.groups, block), m, i - block);
  }
}

// visit(thread, i, first, count, outputs) sees all outputs of every vector i, some neighbouring rows of w at a time.
template <class Visit>
void Multiplier::strips(const Matrix& w, const float* x, int n, Visit visit) {
  for (Desk& desk : desks_) {
    const int most = std::min(n, kRowsAtOnce);
    desk.row.floats((size_t)w.groups * kGroup);
    desk.activations.bytes(kernels_.activation_bytes(!is_float(w.kind), w.groups, most));
    desk.strip.floats((size_t)most * kStrip * kTile);
  }
  const int pairs_of_tiles = (w.tiles + 1) / 2;
  for (int at = 0; at < n; at += kRowsAtOnce) {
    const int m = std::min(kRowsAtOnce, n - at);
    const auto multiply = [&](const Chunk& pairs) {
      Desk& desk = desks_[pairs.thread];
      // Every thread prepares all for itself: little next to the product.
      if (pairs.first) prepare(desk, w, x + (size_t)at * w.cols, m);
      float* strip = desk.strip.floats(0);
      const int end = std::min(2 * pairs.end, w.tiles);
      for (int tile = 2 * pairs.begin; tile < end; tile += kStrip) {
        const int tiles = std::min(kStrip, end - tile), first = tile * kTile,
                  count = std::min(tiles * kTile, w.rows - first);
        Matrix part = w;
        part.data += (size_t)tile * w.tile_bytes;
        kernels_.product({&part, desk.activations.bytes(0), m, strip, kStrip * kTile, nullptr, false}, 0, tiles);
        for (int i = 0; i < m; i++) visit(pairs.thread, at + i, first, count, strip + (size_t)i * kStrip * kTile);
      }
    };
    threads_.run({phase_of(multiply, pairs_of_tiles, threads_.product_grain(pairs_of_tiles, 2 * w.tile_bytes, m))});
  }
}

void Multiplier::product(const Matrix& w, const float* x, int n, float* out) {
  strips(w, x, n, [&](int, int i, int first, int count, const float* outputs) {
    std::copy_n(outputs, count, out + (size_t)i * w.rows + first);
  });
}

void Multiplier::top(const Matrix& w, const float* x, int n, int k, int64_t* rows, float* values) {
  const int threads = threads_.count();
  tops_.resize(std::max(tops_.size(), (size_t)n * threads));
  for (size_t i = 0; i < (size_t)n * threads; i++) tops_[i].k = k, tops_[i].count = 0;
  strips(w, x, n, [&](int t, int i, int first, int count, const float* outputs) {
    kernels_.rank(outputs, first, count, tops_[(size_t)i * threads + t]);
  });
  for (int i = 0; i < n; i++) {
    Best best[kMaxTop];
    join(tops_.data() + (size_t)i * threads, threads, best);
    for (int j = 0; j < k; j++) {
      *rows++ = best[j].token;
      *values++ = best[j].value;
    }
  }
}

void join(const Top* parts, int num_parts, Best* out) {
  int count = parts[0].count;
  std::copy_n(parts[0].best, count, out);
  for (int t = 1; t < num_parts; t++) {
    const Top& other = parts[t];
    Best known[kMaxTop];
    std::copy_n(out, count, known);
    const int total = std::min(other.k, count + other.count);
    for (int i = 0, a = 0, b = 0; i < total; i++) {
      const bool theirs = a == count || (b < other.count && is_better(other.best[b], known[a]));
      out[i] = theirs ? other.best[b++] : known[a++];
    }
    count = total;
  }
}

}  // namespace outpace

// Products of packed matrices with some vectors, on the threads of an engine: of a model's own, and of what stands
// beside it (proposal heads). An output's bits depend neither on the number of vectors nor on that of threads.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/threads.hpp"
#include "kernels/kernels.hpp"

namespace outpace {

struct Range {
  int begin, end;
};

// The forms in which matrices read vectors.
struct Forms {
  bool quantised = false, floats = false;
};
Forms forms_of(std::initializer_list<const Matrix*> readers);

// Vectors [tokens][stride] for matrices that read them in these forms. Given `rows`, vector i is row rows[i] of x;
// given a norm, they are normalised first.
struct Source {
  const float* x;
  int tokens, stride;
  Forms forms;
  const int* rows = nullptr;
  const float* norm = nullptr;
  int dim = 0;
  float eps = 0;
};

struct Input {
  uint8_t* quantised;  // null where no matrix reads this form
  uint8_t* floats;
};

class Products {
 public:
  Products(const Kernels& kernels, Threads& threads);

  const Kernels& kernels() const { return kernels_; }
  Threads& threads() const { return threads_; }
  // How products of `tokens` and more, up to the next number that was told, ask for their weights. Bits stay.
  void set_fetch(int tokens, const Fetch& fetch);

  // x [n][cols] times w: out [n][rows].
  void product(const Matrix& w, const float* x, int n, float* out);
  // The k <= min(kMaxTop, rows of w) largest of each of these products, best first, of equal ones the lower row. [n][k]
  void top(const Matrix& w, const float* x, int n, int k, int64_t* rows, float* values);

  // Runs one product whose outputs are taken while they are in the first-level cache: visit(thread, i, first, count,
  // outputs) sees all of vector i, some neighbouring rows of w at a time; then a phase that reads what it has made.
  template <class Visit>
  void visit_strips(const Matrix& w, Source s, Visit visit, Phase after = {});

  // Parts of phases that others put together. Room for so many vectors:
  void reserve(int tokens, int widest);
  // What the products of a phase read. Up to a block of tokens every thread prepares it for itself, which is cheaper
  // than fetching it from another core's cache; more of them are prepared in a phase before (items: blocks), in whole
  // blocks, so that no two threads write to one cache line.
  Input input(const Source& s, const Chunk& chunk);
  static int blocks_before(int tokens) { return tokens > kBlock ? (tokens + kBlock - 1) / kBlock : 0; }
  void prepare_blocks(const Source& s, const Chunk& blocks);
  // In a buffer of at least room() bytes.
  static Input layout(Buffer& buffer, int tokens, int stride, Forms forms);
  static size_t room(size_t tokens, int stride);
  // The groups begin ... end-1 of token i, whose values stand at x, in the forms that `in` has.
  void write(const Input& in, int groups, int tokens, int i, const float* x, Range part) const;
  void multiply(const Matrix& w, const Input& in, int tokens, float* out, int stride, const float* bias,
                bool accumulate, Range tiles) const;

  static constexpr int kAtOnce = 64;  // vectors that are multiplied together
  static constexpr int kStrip = 8;    // tiles whose outputs are worked on at a time

 private:
  struct alignas(64) Desk {
    Buffer activations, row, strip;
  };
  void prepare(const Source& s, const Input& in, Range tokens, int thread);
  Source source_of(const Matrix& w, const float* x, int n);

  const Kernels& kernels_;
  Threads& threads_;
  std::array<Fetch, kBlock + 1> fetch_;  // by number of tokens; more than a block: as a block
  std::vector<Desk> desks_;              // per thread
  Buffer padded_;
  std::vector<Top> tops_;  // [n][threads]
};

template <class Visit>
void Products::visit_strips(const Matrix& w, Source s, Visit visit, Phase after) {
  const int pairs_of_tiles = (w.tiles + 1) / 2, all = s.tokens;
  reserve(std::min(all, kAtOnce), s.stride);
  for (Desk& desk : desks_) desk.strip.floats((size_t)kAtOnce * kStrip * kTile);
  for (int at = 0; at < all; at += kAtOnce) {
    s.tokens = std::min(kAtOnce, all - at);
    const auto before = [&](const Chunk& blocks) { prepare_blocks(s, blocks); };
    const auto look = [&](const Chunk& pairs) {
      const Input in = input(s, pairs);
      float* strip = desks_[pairs.thread].strip.floats(0);
      const int end = std::min(2 * pairs.end, w.tiles);
      for (int tile = 2 * pairs.begin; tile < end; tile += kStrip) {
        const int tiles = std::min(kStrip, end - tile), first = tile * kTile;
        Matrix part = w;
        part.data += (size_t)tile * w.tile_bytes;
        multiply(part, in, s.tokens, strip, kStrip * kTile, nullptr, false, {0, tiles});
        for (int i = 0; i < s.tokens; i++)
          visit(pairs.thread, at + i, first, std::min(tiles * kTile, w.rows - first), strip + i * kStrip * kTile);
      }
    };
    threads_.run({phase_of(before, blocks_before(s.tokens), 1),
                  phase_of(look, pairs_of_tiles, threads_.product_grain(pairs_of_tiles, 2 * w.tile_bytes, s.tokens)),
                  at + kAtOnce < all ? Phase{} : after});
    if (s.rows) s.rows += kAtOnce;
    else s.x += (size_t)kAtOnce * s.stride;
  }
}

// The k best of what threads have found, each among tokens of its own, into out [k].
void join(const Top* parts, int num_parts, Best* out);

}  // namespace outpace

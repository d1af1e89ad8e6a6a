#include "model/products.hpp"

namespace outpace {

Products::Products(const Kernels& kernels, Threads& threads)
    : kernels_(kernels), threads_(threads), desks_(threads.count()) {}

void Products::set_fetch(int tokens, const Fetch& fetch) {
  for (int m = std::max(tokens, 0); m <= kBlock; m++) fetch_[m] = fetch;
}

void Products::reserve(int tokens, int widest) {
  for (size_t t = 0; t < desks_.size(); t++) {
    const size_t own = t ? std::min(tokens, kBlock) : tokens;  // more than a block stand with thread 0
    desks_[t].activations.bytes(room(own, widest));
    desks_[t].row.floats(widest);
  }
}

Forms forms_of(std::initializer_list<const Matrix*> readers) {
  Forms forms;
  for (const Matrix* m : readers) (is_float(m->kind) ? forms.floats : forms.quantised) = true;
  return forms;
}

size_t Products::room(size_t tokens, int stride) {
  return activation_bytes(true, stride / kGroup, tokens) + activation_bytes(false, stride / kGroup, tokens);
}

Input Products::layout(Buffer& buffer, int tokens, int stride, Forms forms) {
  uint8_t* start = buffer.bytes(0);
  uint8_t* behind = start + (forms.quantised ? activation_bytes(true, stride / kGroup, tokens) : 0);
  return {forms.quantised ? start : nullptr, forms.floats ? behind : nullptr};
}

void Products::write(const Input& in, int groups, int tokens, int i, const float* x, Range part) const {
  const int block = i / kBlock * kBlock, m = std::min(kBlock, tokens - block), count = part.end - part.begin;
  const auto place = [&](uint8_t* start, bool quantised) {
    return start + activation_bytes(quantised, groups, block) + activation_bytes(quantised, part.begin, m);
  };
  if (in.quantised) kernels_.quantise(x + part.begin * kGroup, count, place(in.quantised, true), m, i - block);
  if (in.floats) kernels_.interleave(x + part.begin * kGroup, count, place(in.floats, false), m, i - block);
}

void Products::prepare(const Source& s, const Input& in, Range tokens, int thread) {
  float* row = desks_[thread].row.floats(0);
  for (int i = tokens.begin; i < tokens.end; i++) {
    const float* values = s.x + (size_t)(s.rows ? s.rows[i] : i) * s.stride;
    if (s.norm) {
      kernels_.rms_norm(values, s.norm, s.dim, s.stride, s.eps, row);
      values = row;
    }
    write(in, s.stride / kGroup, s.tokens, i, values, {0, s.stride / kGroup});
  }
}

void Products::prepare_blocks(const Source& s, const Chunk& blocks) {
  prepare(s, layout(desks_[0].activations, s.tokens, s.stride, s.forms),
          {blocks.begin * kBlock, std::min(blocks.end * kBlock, s.tokens)}, blocks.thread);
}

Input Products::input(const Source& s, const Chunk& chunk) {
  const bool alone = s.tokens <= kBlock;
  const Input in = layout(desks_[alone ? chunk.thread : 0].activations, s.tokens, s.stride, s.forms);
  if (alone && chunk.first) prepare(s, in, {0, s.tokens}, chunk.thread);
  return in;
}

void Products::multiply(const Matrix& w, const Input& in, int tokens, float* out, int stride, const float* bias,
                        bool accumulate, Range tiles) const {
  if (tiles.begin >= tiles.end) return;
  kernels_.product({&w, is_float(w.kind) ? in.floats : in.quantised, tokens, out, stride, bias, accumulate,
                    fetch_[std::min(tokens, kBlock)]},
                   tiles.begin, tiles.end);
}

// x [n][cols of w] as it can be read by groups.
Source Products::source_of(const Matrix& w, const float* x, int n) {
  const int stride = padded(w.cols);
  if (stride != w.cols) {
    float* rows = padded_.floats((size_t)n * stride);
    std::fill_n(rows, (size_t)n * stride, 0.0f);
    for (int i = 0; i < n; i++) std::copy_n(x + (size_t)i * w.cols, w.cols, rows + (size_t)i * stride);
    x = rows;
  }
  return {x, n, stride, forms_of({&w})};
}

void Products::product(const Matrix& w, const float* x, int n, float* out) {
  visit_strips(w, source_of(w, x, n), [&](int, int i, int first, int count, const float* outputs) {
    std::copy_n(outputs, count, out + (size_t)i * w.rows + first);
  });
}

void Products::top(const Matrix& w, const float* x, int n, int k, int64_t* rows, float* values) {
  const int threads = threads_.count();
  tops_.resize(std::max(tops_.size(), (size_t)n * threads));
  for (size_t i = 0; i < (size_t)n * threads; i++) tops_[i].k = k, tops_[i].count = 0;
  visit_strips(w, source_of(w, x, n), [&](int t, int i, int first, int count, const float* outputs) {
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
  Best both[2 * kMaxTop];
  int count = 0;
  for (const Top* p = parts; p < parts + num_parts; p++) {
    const Best* end = std::merge(out, out + count, p->best, p->best + p->count, both, is_better);
    count = std::min(p->k, (int)(end - both));
    std::copy_n(both, count, out);
  }
}

}  // namespace outpace

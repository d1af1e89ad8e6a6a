// Norms, rotary embedding, gated activations and the quantisation of activations, for any instruction set.
#pragma once
#include "kernels.hpp"
#include "math.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

// One token into its place in a block: symmetric 8 bit, one scale per group of 32.
void quantise(const float* x, int groups, uint8_t* block, int m, int index) {
  uint8_t* line = block + kQuantGroupBytes * (size_t)index;
  for (int g = 0; g < groups; g++, x += kGroup, line += kQuantGroupBytes * (size_t)m) {
    const F low = load(x), high = load(x + 16);
    const float largest = hmax(max(abs(low), abs(high)));
    const F inverse = set1(largest > 0 ? 127.0f / largest : 0.0f);
    float sum_low, sum_high;
    store_bytes((int8_t*)line, round(low * inverse), round(high * inverse), sum_low, sum_high);
    const float scale = largest * (1.0f / 127.0f), sum = sum_low + sum_high;
    float* numbers = (float*)(line + kGroup);
    numbers[kScale] = scale;
    numbers[kScaleSum] = scale * sum;
    numbers[kSum8] = offset_number(8 * sum);
    numbers[kSum16] = offset_number(16 * sum);
    numbers[kSum128] = offset_number(128 * sum);
    numbers[kLow32] = offset_number(32 * sum_low);
    numbers[kHigh32] = offset_number(32 * sum_high);
  }
}

void interleave(const float* x, int groups, uint8_t* block, int m, int index) {
  float* out = (float*)block + index;
  for (int k = 0; k < groups * kGroup; k++) out[(size_t)k * m] = x[k];
}

inline float root_mean_square_inverse(const float* x, int dim, int padded, float eps) {
  F sum[4] = {zero(), zero(), zero(), zero()};  // four, for fma has a latency
  int i = 0;
  for (; i + 64 <= padded; i += 64)
    for (int j = 0; j < 4; j++) sum[j] = fma(load(x + i + 16 * j), load(x + i + 16 * j), sum[j]);
  for (; i < padded; i += 16) sum[0] = fma(load(x + i), load(x + i), sum[0]);
  return 1.0f / __builtin_sqrtf(hsum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)dim + eps);
}

// x, weight and out hold zeros behind dim up to padded, a multiple of 16.
void rms_norm(const float* x, const float* weight, int dim, int padded, float eps, float* out) {
  const F r = set1(root_mean_square_inverse(x, dim, padded, eps));
  for (int i = 0; i < padded; i += 16) store(out + i, load(x + i) * r * load(weight + i));
}

// residual += norm(x): the norms behind attention and feed-forward of Gemma 3.
void add_rms_norm(const float* x, const float* weight, int dim, int padded, float eps, float* residual) {
  const F r = set1(root_mean_square_inverse(x, dim, padded, eps));
  for (int i = 0; i < padded; i += 16) store(residual + i, load(residual + i) + load(x + i) * r * load(weight + i));
}

// gate = activation(gate) * up; tanh(u) is written as 2 / (1 + exp(-2u)) - 1.
void gated(Activation kind, float* gate, const float* up, int n) {
  const F one = set1(1.0f);
  for (int i = 0; i < n; i += 16) {
    const F x = load(gate + i);
    F u = x;
    if (kind == Activation::gelu_tanh) {
      const F cubic = x * x * x;
      u = set1(1.5957691216f) * fma(set1(0.044715f), cubic, x);
    }
    const F sigmoid = one / (one + exp(zero() - u));
    store(gate + i, x * sigmoid * load(up + i));
  }
}

// Rotates the pairs (i, i + head_dim / 2) and multiplies by scale. cos and sin: [head_dim / 2].
void rope(float* x, const float* cos, const float* sin, int head_dim, float scale) {
  const int half = head_dim / 2;
  int i = 0;
  const F s = set1(scale);
  for (; i + 16 <= half; i += 16) {
    const F a = load(x + i), b = load(x + half + i), c = load(cos + i), d = load(sin + i);
    store(x + i, (a * c - b * d) * s);
    store(x + half + i, (b * c + a * d) * s);
  }
  for (; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = (a * cos[i] - b * sin[i]) * scale;
    x[half + i] = (b * cos[i] + a * sin[i]) * scale;
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA

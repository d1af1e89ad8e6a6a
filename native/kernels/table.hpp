// Included once per instruction set: the table of its functions.
#pragma once
#include "attention_kernel.hpp"
#include "elementwise.hpp"
#include "product.hpp"
#include "sampler_kernel.hpp"
#include "top_kernel.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

constexpr Kernels table(const char* name) {
  return {name,           quantise,  interleave, product, rms_norm, add_rms_norm, gated,          rope, store_key_value,
          move_key_value, attention, best_of,    rank,    read,     saturate,     choose_filtered};
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA

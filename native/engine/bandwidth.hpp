#pragma once
#include <cstddef>

#include "kernels/kernels.hpp"

namespace outpace {

// Bytes per second of a plain read of num_bytes of memory by num_threads threads: the best of a few ways to ask for
// them, each the median of a few passes. `huge`: in huge pages, where the system grants them.
double read_bandwidth(const Kernels& kernels, int num_threads, size_t num_bytes, bool huge);

// Multiply-adds per second of num_threads threads on registers alone; the median of a few passes.
double multiply_add_rate(const Kernels& kernels, int num_threads, bool quantised);

}  // namespace outpace

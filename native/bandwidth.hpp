#pragma once
#include <cstddef>

namespace outpace {

// Bytes per second of a plain read of num_bytes of memory by num_threads threads, the median of a few passes. `huge`:
// in huge pages, where the system grants them.
double read_bandwidth(int num_threads, size_t num_bytes, bool huge);

}  // namespace outpace

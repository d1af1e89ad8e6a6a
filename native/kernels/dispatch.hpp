// Which instruction set computes. Not for the code of any: what it includes must not be compiled for one.
#pragma once
#include <string>
#include <vector>

#include "kernels.hpp"

namespace outpace {

// The names of those that this processor has, best first.
std::vector<std::string> instruction_sets();

// The one named in OUTPACE_ISA, or the best; throws std::invalid_argument with the accepted names.
const Kernels& select_kernels();

}  // namespace outpace

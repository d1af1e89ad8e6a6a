// Chooses the instruction set at run time.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace outpace {

bool supported(const char* name) {
  const std::string n = name;
#if defined(__x86_64__)
  if (n == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
  if (n == "avx2")
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return n == "portable";
}

const Kernels& select_kernels() {
  const char* wanted = std::getenv("OUTPACE_ISA");
  const std::string name = wanted && *wanted     ? wanted
                           : supported("avx512") ? "avx512"
                           : supported("avx2")   ? "avx2"
                                                 : "portable";
  if (!supported(name.c_str())) {
    std::string have;
    for (const char* n : {"avx512", "avx2", "portable"})
      if (supported(n)) have += (have.empty() ? "" : ", ") + std::string(n);
    throw std::invalid_argument("OUTPACE_ISA=" + name + " is not available here; accepted: " + have);
  }
#if defined(__x86_64__)
  if (name == "avx512") return *kernels_avx512();
  if (name == "avx2") return *kernels_avx2();
#endif
  return *kernels_portable();
}

}  // namespace outpace

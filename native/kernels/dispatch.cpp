// Chooses the instruction set at run time.
#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace outpace {
namespace {

struct InstructionSet {
  bool (*supported)();
  const Kernels* kernels;
};

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

// Not every compiler that has the instructions has a name to ask for them by.
[[maybe_unused]] bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

// Best first.
constexpr InstructionSet kSets[] = {
#if defined(__x86_64__)
    {has_avx512, &kernels_avx512},
#if defined(OUTPACE_AVXVNNI)
    {has_avxvnni, &kernels_avxvnni},
#endif
    {has_avx2, &kernels_avx2},
#endif
    {[] { return true; }, &kernels_portable},
};

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : kSets)
    if (set.supported()) names.push_back(set.kernels->name);
  return names;
}

const Kernels& select_kernels() {
  const char* wanted = std::getenv("OUTPACE_ISA");
  const std::string name = wanted ? wanted : "";
  for (const InstructionSet& set : kSets)
    if (set.supported() && (name.empty() || name == set.kernels->name)) return *set.kernels;
  std::string have;
  for (const std::string& known : instruction_sets()) have += (have.empty() ? "" : ", ") + known;
  throw std::invalid_argument("OUTPACE_ISA=" + name + " is not available here; accepted: " + have);
}

}  // namespace outpace

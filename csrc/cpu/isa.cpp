// Which of the compiled instruction sets this machine runs.

#include "isa.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace googlenet_fast::cpu {

namespace baseline {
extern const Isa kIsa;
}
#ifdef __x86_64__
namespace avx2 {
extern const Isa kIsa;
}
namespace avx512 {
extern const Isa kIsa;
}
#endif

namespace {

const Isa& choose() {
#ifdef __x86_64__
  const char* const wanted = std::getenv("GOOGLENET_FAST_ISA");
  const auto may = [&](const char* name) {
    return wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, name) == 0;
  };
  if (may("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma")) {
    return avx512::kIsa;
  }
  if (may("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2::kIsa;
  }
#endif
  return baseline::kIsa;
}

}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose();
  return chosen;
}

int64_t second_level_cache() {
  static const int64_t bytes = [] {
    int64_t told = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    told = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return told > 0 ? told : int64_t(1) << 20;
  }();
  return bytes;
}

}  // namespace googlenet_fast::cpu

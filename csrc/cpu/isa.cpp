// Which of the compiled instruction sets this machine runs.

#include "isa.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "amx.h"

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

extern const Amx kAmx;
extern const bool kAmxEmulated;

namespace {

// What GOOGLENET_FAST_ISA asks for, or null.
const char* wanted() {
  const char* const name = std::getenv("GOOGLENET_FAST_ISA");
  return name == nullptr || *name == '\0' ? nullptr : name;
}

bool may(const char* name) { return wanted() == nullptr || std::strcmp(wanted(), name) == 0; }

// Whether the processor has it, and the system lets this process's threads have its tiles.
bool has_amx() {
#if defined(__x86_64__) && defined(SYS_arch_prctl)
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a, b, c, d;
  constexpr unsigned kTiles = 1u << 24 | 1u << 22;  // AMX-TILE and AMX-BF16
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTiles) == kTiles &&
         __builtin_cpu_supports("avx512bw") && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

const Isa& choose() {
#ifdef __x86_64__
  if ((may("avx512") || may("amx")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma")) {
    return avx512::kIsa;
  }
  if ((may("avx2") || may("amx")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
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

const Amx* amx() {
  static const Amx* const chosen = [] {
    const bool has = kAmxEmulated ? wanted() != nullptr : has_amx();
    return may("amx") && has ? &kAmx : nullptr;
  }();
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

// The name of what the kernels run on; read by googlenet_fast/extension.py.
extern "C" __attribute__((visibility("default"))) const char* googlenet_fast_instruction_set() {
  using namespace googlenet_fast::cpu;
  return amx() == nullptr ? isa().name : "amx";
}

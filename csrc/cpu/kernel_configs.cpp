// Chooses among the compiled instruction sets.

#include "kernel_configs.h"

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
extern const KernelConfigs kConfigs;
}
#ifdef __x86_64__
namespace avx2 {
extern const KernelConfigs kConfigs;
}
namespace avx512 {
extern const KernelConfigs kConfigs;
}
#endif

extern const Amx kAmx;
extern const bool kAmxEmulated;

namespace {

// The value of GOOGLENET_FAST_ISA, or null.
const char* requested() {
  const char* const name = std::getenv("GOOGLENET_FAST_ISA");
  return name == nullptr || *name == '\0' ? nullptr : name;
}

bool is_allowed(const char* name) {
  return requested() == nullptr || std::strcmp(requested(), name) == 0;
}

// True if the processor has AMX, and the kernel grants this process its tile registers.
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

const KernelConfigs& choose() {
#ifdef __x86_64__
  const bool fma = __builtin_cpu_supports("fma"), any = is_allowed("amx");
  if ((any || is_allowed("avx512")) && fma && __builtin_cpu_supports("avx512f")) {
    return avx512::kConfigs;
  }
  if ((any || is_allowed("avx2")) && fma && __builtin_cpu_supports("avx2")) return avx2::kConfigs;
#endif
  return baseline::kConfigs;
}

}  // namespace

const KernelConfigs& kernel_configs() {
  static const KernelConfigs& chosen = choose();
  return chosen;
}

const Amx* amx() {
  static const Amx* const chosen = [] {
    const bool has = kAmxEmulated ? requested() != nullptr : has_amx();
    return is_allowed("amx") && has ? &kAmx : nullptr;
  }();
  return chosen;
}

int64_t l2_cache_bytes() {
  static const int64_t bytes = [] {
    int64_t size = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return size > 0 ? size : int64_t(1) << 20;
  }();
  return bytes;
}

}  // namespace googlenet_fast::cpu

// The instruction set in use; read by googlenet_fast/extension.py.
extern "C" __attribute__((visibility("default"))) const char* googlenet_fast_instruction_set() {
  using namespace googlenet_fast::cpu;
  return amx() == nullptr ? kernel_configs().isa : "amx";
}

// What keeps the extension at glibc 2.28, the oldest of manylinux_2_28, when it is compiled on a
// newer system. Included before every source by .ci/wheel.
#include <features.h>

#ifdef __GLIBC__
#ifdef __cplusplus
extern "C" {
#endif
// libstdc++ asks glibc 2.32 whether there are threads, to spare atomic instructions. There are.
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
#ifdef __cplusplus
}
#endif

// Moved from libdl to libc in glibc 2.34; the versions of each architecture's first glibc remain.
#if defined(__x86_64__)
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver dlsym,dlsym@GLIBC_2.17");
#endif
#endif

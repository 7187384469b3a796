// Follows every access to global and shared memory: counts bytes, and finds what is unordered.
//
// Compiled with -fsanitize=thread, a kernel calls __tsan_read8 and the like before each access; they
// are meant for ThreadSanitizer, which this file takes the place of. Shared memory is the variables
// of this library (but for threadIdx and the like); global memory is what lies neither in this
// library nor on a stack.
//
// An error is: one thread writes a byte that another one reads or writes with no barrier of their
// block between them, and shared memory that is read before its block has written it. Between
// threads of two blocks, this is what orders their accesses: __threadfence by the first thread, an
// atomic operation by it or, after a barrier, by another one of its block, then one at the same
// address in the second block, and there again a barrier, if it was by another thread, and
// __threadfence.

#include <link.h>
#include <pthread.h>

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_emulator.h"
#include "fibers.h"

namespace cuda_emulator {
namespace {

struct Access {
  Now by{};
  uint32_t fences = 0;  // that its thread had passed
  bool known = false;
};

// What a block hands over by an atomic operation: for each thread, the accesses that came before so
// many fences.
struct Release {
  uint32_t block;
  std::vector<uint32_t> fences;
};

// The current block's atomic operation, after which it may see a release.
struct Acquisition {
  Release release;
  uint32_t thread, epoch, fences;
};

// The fences of a thread of the current block.
struct Fences {
  uint32_t count = 0, at_barrier = 0;  // now, and at the last barrier
  uint32_t epoch = 0;                  // of the last one
};

constexpr size_t kMaxThreads = 1024;

struct Byte {
  Access write;
  Access reads[2];  // by two threads, if there are two
};

struct Range {
  uintptr_t begin = 0, end = 0;
  bool holds(uintptr_t address) const { return address >= begin && address < end; }
};

constexpr uintptr_t kLine = 16;

std::unordered_map<uintptr_t, std::array<Byte, kLine>> memory;
Now now;
bool running;  // a kernel, not the code that launches it
uint64_t loaded, stored;  // distinct bytes of global memory
std::array<Fences, kMaxThreads> fences;
std::unordered_map<uintptr_t, std::vector<Release>> releases;  // by address
std::vector<Acquisition> acquisitions;
Range host_stack;
std::string report;  // of the launches so far, JSON objects
const char* kernel_name = "";

Range stack_of_this_thread() {
  pthread_attr_t attributes;
  void* begin = nullptr;
  size_t size = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &begin, &size);
  pthread_attr_destroy(&attributes);
  const auto first = reinterpret_cast<uintptr_t>(begin);
  return {first, first + size};
}

struct Image {
  Range all;        // code, constants and variables
  Range variables;
};

int find_image(dl_phdr_info* info, size_t, void* found) {
  Image image;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    if (image.all.begin == 0) image.all.begin = begin;
    image.all.end = begin + segment.p_memsz;
    if (segment.p_flags & PF_W) image.variables = {begin, image.all.end};
  }
  if (!image.variables.holds(reinterpret_cast<uintptr_t>(&memory))) return 0;
  *static_cast<Image*>(found) = image;
  return 1;
}

const Image& this_library() {
  static const Image image = [] {
    Image found;
    dl_iterate_phdr(find_image, &found);
    return found;
  }();
  return image;
}

template <typename... T>
bool is_any_of(const void* pointer, const T&... variables) {
  const auto in = [&](const auto& variable) {
    return pointer >= &variable && pointer < &variable + 1;
  };
  return (in(variables) || ...);
}

// Whether an access of another block comes before those of the current thread.
bool handed_over(const Access& earlier) {
  const Fences& own = fences[now.thread];
  for (const auto& [release, thread, epoch, passed] : acquisitions) {
    if (release.block != earlier.by.block) continue;
    if (release.fences[earlier.by.thread] <= earlier.fences) continue;
    if (now.thread == thread ? own.count > passed : own.count > 0 && own.epoch > epoch) return true;
  }
  return false;
}

// Whether the current thread's access may come before or after that earlier one.
bool unordered(const Access& earlier, bool shared) {
  if (!earlier.known) return false;
  if (earlier.by.block != now.block) return !shared && !handed_over(earlier);
  return earlier.by.thread != now.thread && earlier.by.epoch == now.epoch;
}

void touch(uintptr_t address, bool write, bool shared) {
  Byte& byte = memory[address / kLine][address % kLine];
  if (!shared) {
    if (write) {
      stored += !byte.write.known;
    } else {
      loaded += !byte.reads[0].known;
    }
  }
  if (unordered(byte.write, shared)) fail("data race: a thread misses what another one writes");
  const Access access{now, fences[now.thread].count, true};
  if (write) {
    for (const Access& read : byte.reads) {
      if (unordered(read, shared)) fail("data race: a thread writes what another one reads");
    }
    byte.write = access;
    return;
  }
  if (shared && (!byte.write.known || byte.write.by.block != now.block)) {
    fail("shared memory is read before it is written");
  }
  byte.reads[unordered(byte.reads[0], shared)] = access;
}

void touch(const void* pointer, size_t size, bool write) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!running || on_fiber_stack(address) || host_stack.holds(address)) return;
  const bool shared = this_library().variables.holds(address);
  if (!shared && this_library().all.holds(address)) return;
  if (is_any_of(pointer, threadIdx, blockIdx, blockDim, gridDim)) return;
  for (size_t i = 0; i < size; ++i) touch(address + i, write, shared);
}

}  // namespace

void begin_launch(const char* kernel) {
  kernel_name = kernel;
  host_stack = stack_of_this_thread();
  memory.clear();
  releases.clear();
  loaded = stored = 0;
  running = true;
  now = {UINT32_MAX, 0, 0};
}

void set_now(Now moment) {
  if (moment.block != now.block) {
    fences = {};
    acquisitions.clear();
  } else if (moment.epoch != now.epoch) {
    for (Fences& thread : fences) thread.at_barrier = thread.count;
  }
  now = moment;
}

void note_fence() {
  ++fences[now.thread].count;
  fences[now.thread].epoch = now.epoch;
}

void note_atomic(const void* address) {
  auto& earlier = releases[reinterpret_cast<uintptr_t>(address)];
  for (const Release& release : earlier) {
    acquisitions.push_back({release, now.thread, now.epoch, fences[now.thread].count});
  }
  Release own{now.block, {}};
  for (const Fences& thread : fences) own.fences.push_back(thread.at_barrier);
  own.fences[now.thread] = fences[now.thread].count;
  earlier.push_back(own);
}

void end_launch() {
  running = false;
  report += (report.empty() ? "" : ",") + std::string("{\"kernel\":\"") + kernel_name +
            "\",\"loaded\":" + std::to_string(loaded) + ",\"stored\":" + std::to_string(stored) +
            "}";
}

}  // namespace cuda_emulator

extern "C" {

// The launches since the last call: a JSON list of kernel, loaded and stored.
__attribute__((visibility("default"))) const char* cuda_emulator_launches() {
  static std::string list;
  list = "[" + cuda_emulator::report + "]";
  cuda_emulator::report.clear();
  return list.c_str();
}

#define ACCESSES(size)                                                                        \
  void __tsan_read##size(void* p) { cuda_emulator::touch(p, size, false); }                   \
  void __tsan_write##size(void* p) { cuda_emulator::touch(p, size, true); }                   \
  void __tsan_unaligned_read##size(void* p) { cuda_emulator::touch(p, size, false); }         \
  void __tsan_unaligned_write##size(void* p) { cuda_emulator::touch(p, size, true); }

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* p, size_t size) { cuda_emulator::touch(p, size, false); }
void __tsan_write_range(void* p, size_t size) { cuda_emulator::touch(p, size, true); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
char __tsan_atomic8_load(const volatile char* p, int) { return *p; }
int __tsan_atomic32_load(const volatile int* p, int) { return *p; }
void __tsan_atomic32_store(volatile int* p, int value, int) { *p = value; }
}

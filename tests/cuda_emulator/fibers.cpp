// Runs the threads of a grid as fibers, and stands in for the host side of CUDA.

#include "fibers.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_emulator.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulator {
namespace {

constexpr size_t kStackBytes = 32 * 1024;
constexpr size_t kMaxThreads = 1024;

enum class State { kReady, kAtBarrier, kInExchange, kDone };

struct Thread {
  ucontext_t context;
  void* fake_stack;
  uint3 index;
  State state;
  Site site;  // where it waits
  Mask mask;
  uint64_t value;
  std::array<uint64_t, 64> given;  // what the lanes of its warp exchanged last
};

struct Scheduler {
  ucontext_t context;
  void* fake_stack;
  const void* stack;
  size_t stack_size;
};

std::array<Thread, kMaxThreads> threads;
Scheduler scheduler;
size_t count;    // threads of a block
size_t current;  // the one that runs
uint32_t block_number;
uint32_t epoch;
void (*body)(const void*);
const void* body_context;
std::string failure;
unsigned order;  // of blocks: by number, or shuffled by a seed

char* stacks() {
  static char* const memory = static_cast<char*>(mmap(
      nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return memory;
}

// AddressSanitizer must know on which stack the program runs.
void leave(void** fake_stack, const void* stack, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, stack, size);
#else
  (void)fake_stack, (void)stack, (void)size;
#endif
}

void arrive(void* fake_stack, const void** stack, size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, stack, size);
#else
  (void)fake_stack, (void)stack, (void)size;
#endif
}

std::string where(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line());
}

bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::string_view(a.file_name()) == b.file_name();
}

void yield() {
  Thread& self = threads[current];
  leave(&self.fake_stack, scheduler.stack, scheduler.stack_size);
  swapcontext(&self.context, &scheduler.context);
  arrive(self.fake_stack, nullptr, nullptr);
}

void enter() {
  arrive(nullptr, &scheduler.stack, &scheduler.stack_size);
  body(body_context);
  threads[current].state = State::kDone;
  leave(nullptr, scheduler.stack, scheduler.stack_size);  // this stack is left for good
  setcontext(&scheduler.context);
}

void resume(size_t number) {
  Thread& thread = threads[number];
  current = number;
  threadIdx = thread.index;
  set_now({block_number, static_cast<uint32_t>(number), epoch});
  leave(&scheduler.fake_stack, stacks() + number * kStackBytes, kStackBytes);
  swapcontext(&scheduler.context, &thread.context);
  arrive(scheduler.fake_stack, nullptr, nullptr);
}

void start(size_t number) {
  Thread& thread = threads[number];
  char* const stack = stacks() + number * kStackBytes;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack, kStackBytes);  // of what a fiber left there
#endif
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = stack;
  thread.context.uc_stack.ss_size = kStackBytes;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, enter, 0);
  thread.state = State::kReady;
  const auto n = static_cast<unsigned>(number);
  thread.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
}

// Let the threads go on that wait at __syncthreads, if all do, and at the same one.
bool release_barrier() {
  for (size_t i = 0; i < count; ++i) {
    if (threads[i].state != State::kAtBarrier) return false;
    if (!same(threads[i].site, threads[0].site)) return false;
  }
  for (size_t i = 0; i < count; ++i) threads[i].state = State::kReady;
  ++epoch;
  return true;
}

// Let the lanes go on that exchange values with this thread, if all of its mask are there.
bool release_exchange(size_t number) {
  Thread& thread = threads[number];
  const size_t first = number / warpSize * warpSize;
  const size_t lanes = std::min<size_t>(warpSize, count - first);
  const auto taking_part = [&](size_t lane) { return thread.mask >> lane & 1; };
  for (size_t lane = 0; lane < lanes; ++lane) {
    const Thread& other = threads[first + lane];
    if (!taking_part(lane)) continue;
    if (other.state != State::kInExchange || other.mask != thread.mask) return false;
    if (!same(other.site, thread.site)) return false;
  }
  std::array<uint64_t, 64> given{};
  for (size_t lane = 0; lane < lanes; ++lane) given[lane] = threads[first + lane].value;
  const Mask mask = thread.mask;
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    threads[first + lane].given = given;
    threads[first + lane].state = State::kReady;
  }
  return true;
}

bool release() {
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    if (threads[i].state == State::kInExchange) any = release_exchange(i) || any;
  }
  return any || release_barrier();
}

// All threads wait or are done, and none can go on.
std::string describe_deadlock() {
  const auto waits = [](const Thread& thread, State state) { return thread.state == state; };
  for (size_t i = 0; i < count; ++i) {
    if (waits(threads[i], State::kInExchange)) {
      return "shuffle or vote in divergent code: thread " + std::to_string(i) + " waits at " +
             where(threads[i].site) + " for lanes that are elsewhere";
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (waits(threads[i], State::kAtBarrier)) {
      return "barrier in divergent code: thread " + std::to_string(i) + " waits at " +
             where(threads[i].site) + " for threads that are elsewhere";
    }
  }
  return "";
}

void run_block() {
  for (size_t i = 0; i < count; ++i) start(i);
  do {
    for (size_t i = 0; i < count && failure.empty(); ++i) {
      if (threads[i].state == State::kReady) resume(i);
    }
  } while (failure.empty() && release());
  if (failure.empty()) failure = describe_deadlock();
}

}  // namespace

bool on_fiber_stack(uintptr_t address) {
  const auto begin = reinterpret_cast<uintptr_t>(stacks());
  return address >= begin && address < begin + kMaxThreads * kStackBytes;
}

void fail(const char* what) {
  if (failure.empty()) failure = what;
}

void fail(const char* what, Site site) {
  if (failure.empty()) failure = what + (": " + where(site));
  yield();  // and never come back
}

int lane() { return static_cast<int>(current % warpSize); }

void wait_for_block(Site site) {
  threads[current].state = State::kAtBarrier;
  threads[current].site = site;
  yield();
}

const uint64_t* exchange(Mask mask, uint64_t value, Site site) {
  Thread& self = threads[current];
  if (!(mask >> lane() & 1)) fail("a lane calls with a mask that it is not in", site);
  self.state = State::kInExchange;
  self.mask = mask;
  self.value = value;
  self.site = site;
  yield();
  return self.given.data();
}

void run(
    const char* kernel, dim3 grid, dim3 block, void (*thread)(const void*), const void* context) {
  count = size_t{block.x} * block.y * block.z;
  const bool fits = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.y < 65536 && grid.z < 65536;
  if (count == 0 || count > kMaxThreads || !fits) {
    throw std::runtime_error(std::string(kernel) + ": invalid configuration of a launch");
  }
  body = thread;
  body_context = context;
  gridDim = grid;
  blockDim = block;
  failure.clear();
  begin_launch(kernel);
  std::vector<uint32_t> blocks(size_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  if (order != 0) std::shuffle(blocks.begin(), blocks.end(), std::mt19937(order));
  for (const uint32_t block : blocks) {
    if (!failure.empty()) break;
    block_number = block;
    blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
    epoch = 0;
    run_block();
  }
  end_launch();
  if (!failure.empty()) throw std::runtime_error(std::string(kernel) + ": " + failure);
}

}  // namespace cuda_emulator

// The host side of CUDA: one small GPU, on which every launch succeeds or has thrown. No stream is
// captured.
extern "C" {

// From now on run the blocks of launches in an order that depends on `seed`; 0: by number.
__attribute__((visibility("default"))) void cuda_emulator_shuffle_blocks(unsigned seed) {
  cuda_emulator::order = seed;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t size, cudaStream_t) {
  std::memset(memory, value, size);
  return cudaSuccess;
}

#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long*, cudaGraph_t*,
    const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
#else
cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long*, cudaGraph_t*,
    const cudaGraphNode_t**, size_t*) {
#endif
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t) { return "no error"; }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1;  // multiprocessor
  return cudaSuccess;
}
}

// Tells the block of a launch that finishes last, which can go on with what the others stored.
#pragma once

#include <map>
#include <mutex>
#include <utility>

#include "launch.h"

namespace googlenet_fast {

constexpr int kCounters = 1024;  // of a launch
constexpr int kSlots = 128;

// Of blocks that have arrived. Zero when the module is loaded, and after each launch.
static __device__ unsigned arrivals[kSlots * kCounters];

// The counters of one launch.
struct Counters {
  unsigned* own;  // memory that is zero; null: a slot of `arrivals`
  int slot;

  __device__ unsigned* get() const { return own != nullptr ? own : arrivals + slot * kCounters; }
};

// True for the last of `count` blocks that arrive at a counter, which is zero then. It sees what
// the others stored before. All threads of a block must call it.
__device__ inline bool is_last(unsigned* counter, unsigned count) {
  __shared__ bool last;
  __threadfence();  // a thread's stores come before the arrival
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) last = atomicInc(counter, count - 1) == count - 1;
  __syncthreads();
  if (last) __threadfence();  // what follows comes after it
  return last;
}

// A slot for launches that follow each other: those of a stream, or those captured from a stream
// into one graph. A graph that was captured once must not be instantiated twice and run at the same
// time. -1 if all slots are taken.
inline int slot_of(cudaStream_t stream) {
  cudaStreamCaptureStatus status{};
  unsigned long long graph = 0;
  check(cudaStreamGetCaptureInfo(stream, &status, &graph), "cudaStreamGetCaptureInfo");
  const std::pair key(stream, status == cudaStreamCaptureStatusNone ? 0 : graph);
  static std::mutex mutex;
  static std::map<std::pair<cudaStream_t, unsigned long long>, int> slots;
  const std::lock_guard lock(mutex);
  const int next = static_cast<int>(slots.size());
  if (const auto found = slots.find(key); found != slots.end()) return found->second;
  return next < kSlots ? slots[key] = next : -1;
}

// `count` counters of zero for one launch. Where no slot serves they are in `spare`, which another
// operation of the stream fills.
inline Counters zero_counters(int64_t count, void* spare, cudaStream_t stream) {
  if (const int slot = count <= kCounters ? slot_of(stream) : -1; slot >= 0) return {nullptr, slot};
  check(cudaMemsetAsync(spare, 0, count * sizeof(unsigned), stream), "cudaMemsetAsync");
  return {static_cast<unsigned*>(spare), 0};
}

}  // namespace googlenet_fast

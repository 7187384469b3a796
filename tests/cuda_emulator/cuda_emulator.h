// CUDA's device language in host C++: included before a .cu file, it lets g++ compile and run it.
//
// Blocks run one after the other, in an order that can be shuffled, the threads of a block as fibers
// on one core. A thread runs until
// it ends or waits, at __syncthreads or for the other lanes of its warp. What CUDA leaves undefined
// is an error here: a barrier that some threads miss, a shuffle that a lane of its mask does not
// reach, a lane read that gave nothing.
//
// Half types are those of CUDA's own headers, which host compilers take.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#undef __shared__
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)

// For what a kernel does not do itself: its accesses are no accesses of the kernel.
#define UNTRACED __attribute__((noinline, no_sanitize_thread))

#ifndef GOOGLENET_FAST_WARP_SIZE
#define GOOGLENET_FAST_WARP_SIZE 32
#endif

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = GOOGLENET_FAST_WARP_SIZE;

namespace cuda_emulator {

using Mask = std::conditional_t<warpSize == 64, uint64_t, uint32_t>;
using Site = std::source_location;

// Call `thread` with `context` once for each thread of the grid. Throws std::runtime_error.
void run(
    const char* kernel, dim3 grid, dim3 block, void (*thread)(const void*), const void* context);

// Wait for all threads of the block.
void wait_for_block(Site site);

// Wait for the lanes of `mask`; returns what each gave, by lane.
const uint64_t* exchange(Mask mask, uint64_t value, Site site);

// Lane of the current thread.
int lane();

// Note an error, which ends the launch.
void fail(const char* what, Site site);

// Note __threadfence, and an atomic operation.
void note_fence();
void note_atomic(const void* address);

template <typename... Parameters>
void launch(
    const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
    const std::type_identity_t<Parameters>&... arguments) {
  const auto thread = [&] { kernel(arguments...); };
  using Thread = decltype(thread);
  run(name, grid, block, [](const void* it) { (*static_cast<Thread*>(it))(); }, &thread);
}

// The value of lane `source`; the thread's own where that lies outside its part of the warp.
template <typename T>
UNTRACED T shuffle(Mask mask, T value, int source, bool inside, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* const given = exchange(mask, bits, site);
  if (!inside) return value;
  if (!(mask >> source & 1)) fail("a shuffle reads a lane that is not in its mask", site);
  std::memcpy(&value, &given[source], sizeof(T));
  return value;
}

}  // namespace cuda_emulator

inline void __syncthreads(cuda_emulator::Site site = cuda_emulator::Site::current()) {
  cuda_emulator::wait_for_block(site);
}

inline void __syncwarp(
    cuda_emulator::Mask mask = ~cuda_emulator::Mask{0},
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  cuda_emulator::exchange(mask, 0, site);
}

template <typename T>
T __shfl_sync(
    cuda_emulator::Mask mask, T value, int source, int width = warpSize,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  const int first = cuda_emulator::lane() / width * width;
  return cuda_emulator::shuffle(mask, value, first + (source & (width - 1)), true, site);
}

template <typename T>
T __shfl_up_sync(
    cuda_emulator::Mask mask, T value, int delta, int width = warpSize,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  const int lane = cuda_emulator::lane(), source = lane - delta;
  return cuda_emulator::shuffle(mask, value, source, source >= lane / width * width, site);
}

template <typename T>
T __shfl_down_sync(
    cuda_emulator::Mask mask, T value, int delta, int width = warpSize,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  const int lane = cuda_emulator::lane(), source = lane + delta;
  return cuda_emulator::shuffle(mask, value, source, source < (lane / width + 1) * width, site);
}

template <typename T>
T __shfl_xor_sync(
    cuda_emulator::Mask mask, T value, int bits, int width = warpSize,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  const int lane = cuda_emulator::lane(), source = lane ^ bits;
  return cuda_emulator::shuffle(mask, value, source, source < (lane / width + 1) * width, site);
}

UNTRACED inline cuda_emulator::Mask __ballot_sync(
    cuda_emulator::Mask mask, int predicate,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  const uint64_t* const given = cuda_emulator::exchange(mask, predicate != 0, site);
  cuda_emulator::Mask ballot = 0;
  for (int lane = 0; lane < warpSize; ++lane) {
    if (mask >> lane & 1) ballot |= static_cast<cuda_emulator::Mask>(given[lane]) << lane;
  }
  return ballot;
}

inline int __any_sync(
    cuda_emulator::Mask mask, int predicate,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}

inline int __all_sync(
    cuda_emulator::Mask mask, int predicate,
    cuda_emulator::Site site = cuda_emulator::Site::current()) {
  return __ballot_sync(mask, predicate, site) == mask;
}

// Fibers do not interrupt each other, so that plain accesses are atomic; traced, they were races.
template <typename T>
UNTRACED T atomicAdd(T* address, std::type_identity_t<T> value) {
  cuda_emulator::note_atomic(address);
  const T old = *address;
  *address = old + value;
  return old;
}

UNTRACED inline unsigned atomicInc(unsigned* address, unsigned last) {
  cuda_emulator::note_atomic(address);
  const unsigned old = *address;
  *address = old >= last ? 0 : old + 1;
  return old;
}

inline void __threadfence() { cuda_emulator::note_fence(); }

// Up to 2 ulp off, as CUDA says of its own: kernels must bear that.
UNTRACED inline float rsqrtf(float x) {
  const float nearest = static_cast<float>(1. / std::sqrt(static_cast<double>(x)));
  if (!std::isfinite(nearest) || nearest == 0.f) return nearest;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  const int ulps = static_cast<int>(bits * 2654435761u >> 16) % 5 - 2;
  std::memcpy(&bits, &nearest, sizeof(nearest));
  bits += ulps;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

template <typename T>
UNTRACED T atomicExch(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = value;
  return old;
}

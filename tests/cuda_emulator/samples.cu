// Kernels, right and wrong ones, with which the emulator itself is tested.

#include <cuda_runtime.h>

#include <cstring>
#include <exception>
#include <string>

namespace {

constexpr int kThreads = 128;
constexpr cuda_emulator::Mask kAllLanes = ~cuda_emulator::Mask{0};

__global__ void fill(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = static_cast<float>(i);
}

__global__ void fill_beyond_the_end(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) x[i] = static_cast<float>(i);
}

__global__ void fill_beyond_shared_memory(float* x, int) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x + blockIdx.x] = 1.f;
  __syncthreads();
  x[threadIdx.x] = shared[threadIdx.x];
}

template <bool kBarrier>
__global__ void reverse(float* x, int) {
  __shared__ float shared[kThreads];
  const int i = blockIdx.x * kThreads + threadIdx.x;
  shared[threadIdx.x] = x[i];
  if (kBarrier) __syncthreads();
  x[i] = shared[kThreads - 1 - threadIdx.x];
}

__global__ void overwrite_without_barrier(float* x, int) {
  __shared__ float shared[kThreads];
  const int mirrored = kThreads - 1 - threadIdx.x;
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float value = shared[mirrored];
  shared[threadIdx.x] = 2.f * value;
  __syncthreads();
  x[threadIdx.x] = shared[threadIdx.x];
}

__global__ void write_one_place(float* x, int) { x[0] = 1.f; }

__global__ void read_what_another_block_writes(float* x, int) {
  if (threadIdx.x == 0) x[blockIdx.x] = x[blockIdx.x + 1];
}

__global__ void read_shared_memory_of_the_last_block(float* x, int) {
  __shared__ float shared;
  if (threadIdx.x == 0 && blockIdx.x == 0) shared = 1.f;
  __syncthreads();
  x[blockIdx.x * kThreads + threadIdx.x] = shared;
}

__global__ void barrier_for_half(float*, int) {
  if (threadIdx.x < kThreads / 2) __syncthreads();
}

__global__ void barriers_in_two_branches(float*, int) {
  if (threadIdx.x < kThreads / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void shuffle_in_a_branch(float* x, int) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 2 == 0) value = __shfl_xor_sync(kAllLanes, value, 1);
  x[threadIdx.x] = value;
}

__global__ void shuffle_from_outside_the_mask(float* x, int) {
  float value = x[threadIdx.x];
  const bool low = threadIdx.x % warpSize < 8;
  if (low) value = __shfl_sync(cuda_emulator::Mask{0xff}, value, 8);
  x[threadIdx.x] = value;
}

__global__ void read_misaligned(float* x, int) {
  struct alignas(16) Four { float values[4]; };
  const auto four = *reinterpret_cast<const Four*>(x + 1);
  if (threadIdx.x == 0 && blockIdx.x == 0) x[0] = four.values[3];
}

// x[i] = the sum over its warp.
__global__ void sum_warps(float* x, int) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  float sum = x[i];
  for (int step = warpSize / 2; step > 0; step /= 2) sum += __shfl_down_sync(kAllLanes, sum, step);
  x[i] = __shfl_sync(kAllLanes, sum, 0);
}

// Of groups of eight lanes: x[i] = x[i - 1] + the number of positive values + whether all are.
__global__ void vote_in_groups(float* x, int) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const auto group = cuda_emulator::Mask{0xff} << (threadIdx.x % warpSize / 8 * 8);
  const float before = __shfl_up_sync(group, x[i], 1, 8);
  const auto positive = __ballot_sync(group, x[i] > 0.f);
  const int any = __any_sync(group, x[i] > 0.f), all = __all_sync(group, x[i] > 0.f);
  __syncwarp();
  x[i] = before + static_cast<float>(__builtin_popcountll(positive) + 100 * any + 1000 * all);
}

__global__ void count_positive(float* x, int n) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i > 0 && i < n && x[i] > 0.f) atomicAdd(&x[0], 1.f);
}

// Every block doubles its part of x; the last one to finish adds a value of each part to x[0]. Parts
// of the protocol can be left out.
template <bool kFence, bool kBarrier, bool kSecondFence>
__global__ void add_in_last_block(float* x, int) {
  static unsigned arrived;
  __shared__ bool last;
  x[blockIdx.x * kThreads + threadIdx.x] *= 2.f;
  if (kFence) __threadfence();
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(&arrived, gridDim.x - 1) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  if (kSecondFence) __threadfence();
  if (threadIdx.x != 1) return;
  for (unsigned i = 0; i < gridDim.x; ++i) x[0] += x[i * kThreads + i + 1];
}

struct Sample {
  const char* name;
  void (*kernel)(float*, int);
};

#define SAMPLE(kernel) {#kernel, kernel}
const Sample kSamples[] = {
    SAMPLE(fill), SAMPLE(fill_beyond_the_end), SAMPLE(fill_beyond_shared_memory),
    {"reverse", reverse<true>}, {"reverse_without_barrier", reverse<false>},
    SAMPLE(overwrite_without_barrier), SAMPLE(write_one_place),
    SAMPLE(read_what_another_block_writes),
    SAMPLE(read_shared_memory_of_the_last_block), SAMPLE(barrier_for_half),
    SAMPLE(barriers_in_two_branches), SAMPLE(shuffle_in_a_branch),
    SAMPLE(shuffle_from_outside_the_mask), SAMPLE(read_misaligned), SAMPLE(sum_warps),
    SAMPLE(vote_in_groups), SAMPLE(count_positive),
    {"add_in_last_block", add_in_last_block<true, true, true>},
    {"add_without_fence", add_in_last_block<false, true, true>},
    {"add_without_barrier", add_in_last_block<true, false, true>},
    {"add_without_second_fence", add_in_last_block<true, true, false>}};

}  // namespace

// Run a kernel of that name on n values with blocks of 128 threads; returns its error, or "".
extern "C" __attribute__((visibility("default"))) const char* run_sample(
    const char* name, float* x, int n) {
  static std::string error;
  error = "no such sample";
  for (const Sample& sample : kSamples) {
    if (std::strcmp(sample.name, name) != 0) continue;
    error.clear();
    try {
      const dim3 grid((n + kThreads - 1) / kThreads);
      cuda_emulator::launch(name, sample.kernel, grid, dim3(kThreads), x, n);
    } catch (const std::exception& exception) {
      error = exception.what();
    }
  }
  return error.c_str();
}

// Steps of stochastic gradient descent: one launch for all parameters.
//
// A GPU skips the whole step if any gradient is not finite. That must be known before the first
// write, so gradients are searched by a launch of their own: 2 of the step's 22 bytes per
// parameter in fp16. A barrier over the grid inside one launch would read the same bytes and cost
// as much time as the second launch, and needs all blocks to be resident. Steps without gradient
// scaling are one launch.
//
// Pointers and sizes come as arguments of the kernel, so that a captured launch keeps them and
// nothing is copied to the device.

#include <cfloat>
#include <cmath>

#include "../sgd_step.h"
#include "launch.h"

namespace googlenet_fast {
namespace {

constexpr int kChunk = 4096;  // elements of a block: two vectors of eight per thread

// Tensors per launch, within what the arguments of a kernel may take: 32,764 bytes since CUDA 12.1
// (compute capability 7.0), 4096 before and elsewhere. GoogLeNet has at most 133 parameters.
#if defined(CUDART_VERSION) && CUDART_VERSION >= 12010
constexpr int kMaxTensors = 160;
constexpr size_t kMaxBytes = 32764;
#else
constexpr int kMaxTensors = 54;
constexpr size_t kMaxBytes = 4096;
#endif

template <typename Item>
struct Batch {
  Item items[kMaxTensors];
  unsigned first_block[kMaxTensors];
  bool aligned[kMaxTensors];  // to kBytesPerAccess
  int count;

  __device__ const Item& of_block(int& index) const {
    int beyond = count;
    index = 0;
    while (beyond - index > 1) {
      const int middle = (index + beyond) / 2;
      (first_block[middle] <= blockIdx.x ? index : beyond) = middle;
    }
    return items[index];
  }
};

// Tells the compiler that a pointer from an array is to global memory, as it knows of others.
template <typename P>
__device__ inline P global(P pointer) {
#ifdef __CUDA_ARCH__
  if (pointer != nullptr) __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

template <typename T, int kWidth>
__device__ inline void load_floats(const void* base, int64_t i, float (&values)[kWidth]) {
  constexpr int kPart = kWidth < kVectorWidth<T> ? kWidth : kVectorWidth<T>;
  for (int k = 0; k < kWidth; k += kPart) {
    const auto part = load<T, kPart>(base, i + k);
    for (int j = 0; j < kPart; ++j) values[k + j] = to_float(part.values[j]);
  }
}

template <typename T, int kWidth>
__device__ inline void store_floats(void* base, int64_t i, const float (&values)[kWidth]) {
  constexpr int kPart = kWidth < kVectorWidth<T> ? kWidth : kVectorWidth<T>;
  for (int k = 0; k < kWidth; k += kPart) {
    Vector<T, kPart> part;
    for (int j = 0; j < kPart; ++j) part.values[j] = from_float<T>(values[k + j]);
    store<T, kPart>(base, i + k, part);
  }
}

template <typename T, int kWidth>
__device__ inline void load_gradient(
    const void* data, bool single, int64_t i, float (&values)[kWidth]) {
  if (single) {
    load_floats<float>(data, i, values);
  } else {
    load_floats<T>(data, i, values);
  }
}

// Call access(i, width) for the elements of a block's chunk that are this thread's.
template <int kWidth, typename F>
__device__ inline void for_elements(int64_t chunk, int64_t count, bool aligned, const F& access) {
  const int64_t begin = chunk * kChunk;
  const int64_t end = begin + kChunk < count ? begin + kChunk : count;
  const int64_t vectors = aligned ? (end - begin) / kWidth * kWidth : 0;
  for (int64_t i = threadIdx.x * kWidth; i < vectors; i += kThreads * kWidth) {
    access(begin + i, std::integral_constant<int, kWidth>());
  }
  for (int64_t i = begin + vectors + threadIdx.x; i < end; i += kThreads) {
    access(i, std::integral_constant<int, 1>());
  }
}

// What a step takes from the device's memory, and the rest of its numbers.
struct Numbers {
  float inverse_scale, lr, weight_decay, momentum, average_weight;
  bool nesterov;
};

template <int kWidth>
__device__ inline void update(
    const Numbers& n, bool with_momentum, const float (&gradient)[kWidth],
    float (&momentum)[kWidth], float (&value)[kWidth]) {
  for (int k = 0; k < kWidth; ++k) {
    float g = gradient[k] * n.inverse_scale;
    if (n.weight_decay != 0.f) g = fmaf(n.weight_decay, value[k], g);
    if (with_momentum) {
      momentum[k] = fmaf(n.momentum, momentum[k], g);
      g = n.nesterov ? fmaf(n.momentum, momentum[k], g) : momentum[k];
    }
    value[k] = fmaf(-n.lr, g, value[k]);
  }
}

// As torch.lerp.
__device__ inline float lerp(float from, float to, float weight) {
  return weight < 0.5f ? fmaf(weight, to - from, from) : to - (to - from) * (1.f - weight);
}

struct SgdBatch : Batch<SgdTensor> {
  float momentum;
  bool nesterov;
  const float* grad_scale;
  const float* found_inf;
  const float* average_weight;
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) sgd_step_kernel(const __grid_constant__ SgdBatch p) {
  int index;
  const SgdTensor& t = p.of_block(index);
  float* const parameter = global(t.parameter);
  const void* const gradient = global(t.gradient);
  float* const momentum = global(t.momentum);
  void* const copy = global(t.copy);
  float* const average = global(t.average);
  const bool single = t.single;
  const bool step = gradient != nullptr && (p.found_inf == nullptr || *p.found_inf == 0.f);
  if (!step && average == nullptr) return;

  const Numbers n{
      .inverse_scale = p.grad_scale == nullptr ? 1.f : 1.f / *p.grad_scale,
      .lr = *global(t.lr),
      .weight_decay = t.weight_decay,
      .momentum = p.momentum,
      .average_weight = average == nullptr ? 0.f : *p.average_weight,
      .nesterov = p.nesterov};
  const auto access = [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    float value[kCount], g[kCount], m[kCount] = {};
    load_floats<float>(parameter, i, value);
    if (step) {
      load_gradient<T>(gradient, single, i, g);
      if (momentum != nullptr) load_floats<float>(momentum, i, m);
      update(n, momentum != nullptr, g, m, value);
      store_floats<float>(parameter, i, value);
      if (momentum != nullptr) store_floats<float>(momentum, i, m);
      if (copy != nullptr) store_floats<T>(copy, i, value);
    }
    if (average != nullptr) {
      float a[kCount];
      load_floats<float>(average, i, a);
      for (int k = 0; k < kCount; ++k) a[k] = lerp(a[k], value[k], n.average_weight);
      store_floats<float>(average, i, a);
    }
  };
  for_elements<kWidth>(blockIdx.x - p.first_block[index], t.count, p.aligned[index], access);
}

struct FindBatch : Batch<Gradient> {
  float* found;
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    find_nonfinite_kernel(const __grid_constant__ FindBatch p) {
  int index;
  const Gradient& t = p.of_block(index);
  const void* const data = global(t.data);
  const bool single = t.single;
  bool finite = true;
  const auto access = [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    float g[kCount];
    load_gradient<T>(data, single, i, g);
    for (int k = 0; k < kCount; ++k) finite = finite && fabsf(g[k]) <= FLT_MAX;
  };
  for_elements<kWidth>(blockIdx.x - p.first_block[index], t.count, p.aligned[index], access);
  if (!finite) atomicExch(p.found, 1.f);
}

bool is_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % kBytesPerAccess == 0;
  });
}

bool is_aligned(const SgdTensor& t) {
  return is_aligned({t.parameter, t.gradient, t.momentum, t.copy, t.average});
}

bool is_aligned(const Gradient& t) { return is_aligned({t.data}); }

// Launch a kernel for kMaxTensors tensors at a time; `batch` has the other arguments.
template <typename B, typename Item>
void launch_for_all(
    const char* name, void (*kernel)(B), B batch, const Item* items, int64_t count,
    cudaStream_t stream) {
  static_assert(sizeof(B) <= kMaxBytes);
  int64_t blocks = 0;
  batch.count = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (items[i].count > 0) {
      batch.items[batch.count] = items[i];
      batch.first_block[batch.count] = static_cast<unsigned>(blocks);
      batch.aligned[batch.count++] = is_aligned(items[i]);
      blocks += divide_up(items[i].count, kChunk);
    }
    if (blocks > 0 && (batch.count == kMaxTensors || i + 1 == count)) {
      launch(name, kernel, {dim3(blocks), dim3(kThreads)}, stream, batch);
      blocks = batch.count = 0;
    }
  }
}

}  // namespace

void run_cuda(Dtype dtype, const SgdStep& p, cudaStream_t stream) {
  SgdBatch batch{};
  batch.momentum = p.momentum;
  batch.nesterov = p.nesterov;
  batch.grad_scale = p.grad_scale;
  batch.found_inf = p.found_inf;
  batch.average_weight = p.average_weight;
  for_dtype(dtype, [&](auto value) {
    using T = decltype(value);
    const auto kernel = sgd_step_kernel<T, kVectorWidth<T>>;
    launch_for_all("sgd_step", kernel, batch, p.tensors, p.count, stream);
  });
}

void run_cuda(Dtype dtype, const FindNonfinite& p, cudaStream_t stream) {
  check(cudaMemsetAsync(p.found, 0, sizeof(float), stream), "find_nonfinite");
  FindBatch batch{};
  batch.found = p.found;
  for_dtype(dtype, [&](auto value) {
    using T = decltype(value);
    const auto kernel = find_nonfinite_kernel<T, kVectorWidth<T>>;
    launch_for_all("find_nonfinite", kernel, batch, p.gradients, p.count, stream);
  });
}

}  // namespace googlenet_fast

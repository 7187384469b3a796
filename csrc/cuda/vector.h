// Vectorized memory accesses: several adjacent values in one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../kernels.h"

namespace googlenet_fast {

constexpr int kBytesPerAccess = 16;

template <typename T>
constexpr int kVectorWidth = kBytesPerAccess / static_cast<int>(sizeof(T));

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T values[kWidth];
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ inline T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// The type that is loaded or stored in one access of that many bytes. Compilers may split the
// access to a struct of T.
template <int kBytes>
struct Word;
template <>
struct Word<1> {
  using Type = unsigned char;
};
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

template <typename T, int kWidth>
__device__ inline Vector<T, kWidth> load(const void* base, int64_t offset) {
  using Type = typename Word<sizeof(T) * kWidth>::Type;
  const Type word = *reinterpret_cast<const Type*>(static_cast<const T*>(base) + offset);
  Vector<T, kWidth> vector;
  memcpy(&vector, &word, sizeof(word));
  return vector;
}

template <typename T, int kWidth>
__device__ inline void store(void* base, int64_t offset, const Vector<T, kWidth>& vector) {
  using Type = typename Word<sizeof(T) * kWidth>::Type;
  Type word;
  memcpy(&word, &vector, sizeof(word));
  Type* const address = reinterpret_cast<Type*>(static_cast<T*>(base) + offset);
#ifdef __NVCC__
  __stcg(address, word);  // an ordinary store, but one that the compiler cannot split
#else
  *address = word;
#endif
}

// Zeros if `bias` is null.
template <int kWidth>
__device__ inline void load_bias(const void* bias, int64_t channel, float (&values)[kWidth]) {
  for (int i = 0; i < kWidth; ++i) {
    values[i] = bias == nullptr ? 0.f : static_cast<const float*>(bias)[channel + i];
  }
}

// True if the rows of a matrix are whole, aligned vectors of kBytesPerAccess. So are those of null.
inline bool can_vectorize(Dtype dtype, const Matrix& matrix, int64_t columns) {
  const int width = dtype == Dtype::kFloat32 ? kVectorWidth<float> : kVectorWidth<__half>;
  return reinterpret_cast<uintptr_t>(matrix.data) % kBytesPerAccess == 0 &&
         matrix.stride % width == 0 && columns % width == 0;
}

}  // namespace googlenet_fast

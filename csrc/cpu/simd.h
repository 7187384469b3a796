// Vectors of floats as wide as the instruction set has them, in the compiler's portable notation.
//
// All of it is in a namespace named after the instruction set, or the linker would merge functions
// that were compiled for different ones.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <type_traits>

#include "isa.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileRows = 12;  // of 32 registers 24 hold sums
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTileRows = 6;  // of 16 registers 12 hold sums
#else
constexpr int kLanes = 4, kTileRows = 4;
#endif
constexpr int kVectors = 2;
constexpr int kPanel = kVectors * kLanes;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef Vector Unaligned __attribute__((aligned(alignof(float)), may_alias));

// As many integers, and bytes, as a vector has floats. GCC converts between them one by one unless by
// way of integers of two bytes.
typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint16_t Shorts __attribute__((vector_size(kLanes * sizeof(uint16_t))));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef Bytes UnalignedBytes __attribute__((aligned(1), may_alias));

template <typename V>
using IntegersOf = std::conditional_t<sizeof(V) == sizeof(float), int32_t, Integers>;

inline void store_bytes(uint8_t* p, int32_t v) { *p = static_cast<uint8_t>(v); }
inline void store_bytes(uint8_t* p, Integers v) {
  const Shorts half = __builtin_convertvector(v, Shorts);
  *reinterpret_cast<UnalignedBytes*>(p) = __builtin_convertvector(half, Bytes);
}

template <typename I>
inline I load_bytes(const uint8_t* p) {
  if constexpr (sizeof(I) == sizeof(int32_t)) {
    return *p;
  } else {
    const Shorts half = __builtin_convertvector(*reinterpret_cast<const UnalignedBytes*>(p), Shorts);
    return __builtin_convertvector(half, Integers);
  }
}

template <typename V>
inline V load(const float* p) {
  if constexpr (sizeof(V) == sizeof(float)) return *p;
  else return *reinterpret_cast<const Unaligned*>(p);
}

inline void store(float* p, float v) { *p = v; }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

// Whether a vector is a line of the caches, which can be written past them: without being read before.
constexpr bool kStreams = kLanes == kLine;

// To p, which begins a line; past the caches if kStreams.
inline void stream(float* p, float v) { store(p, v); }
inline void stream(float* p, Vector v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#else
  store(p, v);
#endif
}

template <typename V>
inline void store(float* p, V v, bool past) {
  if (past) stream(p, v);
  else store(p, v);
}

template <typename V>
inline V zero() { return V{}; }

// max(v, 0) that keeps NaN.
template <typename V>
inline V relu(V v) { return v < 0.0f ? zero<V>() : v; }

// sum += a * b in the form that overwrites the sum: GCC may choose others, and then has to copy.
inline void multiply_add(Vector& sum, float a, Vector b) {
#if defined(__AVX512F__)
  asm("vfmadd231ps %1, %2, %0" : "+v"(sum) : "v"(a - Vector{}), "v"(b));
#elif defined(__AVX2__)
  asm("vfmadd231ps %1, %2, %0" : "+x"(sum) : "x"(a - Vector{}), "x"(b));
#else
  sum += a * b;
#endif
}

inline float square_root(float v) { return __builtin_sqrtf(v); }
inline Vector square_root(Vector v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, v);  // GCC 12 warns of _mm512_sqrt_ps
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#else
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// Call function(offset, V()) for all of 0 .. n: by vectors, and the rest one by one.
template <typename F>
inline void for_each_vector(int64_t n, const F& function) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) function(i, Vector());
  for (; i < n; ++i) function(i, float());
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA

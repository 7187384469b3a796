// Vectors of the instruction set's width, in GCC's portable vector extensions.
//
// The namespace is named after the instruction set: otherwise the linker would merge functions that
// were compiled for different ones.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <type_traits>

#include "kernel_configs.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kMr = 12;  // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int kLanes = 8, kMr = 6;  // 12 of 16 registers hold sums
#else
constexpr int kLanes = 4, kMr = 4;
#endif
constexpr int kVectors = 2;  // in a row of the register tile
constexpr int kNr = kVectors * kLanes;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef Vector Unaligned __attribute__((aligned(alignof(float)), may_alias));

// As many integers and bytes as a vector has floats. GCC vectorizes conversions between them only
// through 16-bit integers.
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
    const Bytes bytes = *reinterpret_cast<const UnalignedBytes*>(p);
    const Shorts half = __builtin_convertvector(bytes, Shorts);
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

// True if a vector is a whole cache line. A nontemporal store of one writes memory without reading
// it.
constexpr bool kHasNontemporalStore = kLanes == kLine;

// p begins a cache line. An ordinary store where kHasNontemporalStore is false.
inline void store_nontemporal(float* p, float v) { store(p, v); }
inline void store_nontemporal(float* p, Vector v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#else
  store(p, v);
#endif
}

template <typename V>
inline void store(float* p, V v, bool nontemporal) {
  if (nontemporal) store_nontemporal(p, v);
  else store(p, v);
}

template <typename V>
inline V zero() {
  return V{};
}

// max(v, 0) that keeps NaN.
template <typename V>
inline V relu(V v) {
  return v < 0.0f ? zero<V>() : v;
}

// sum += a * b, by the FMA form that overwrites the sum: GCC may choose others, which need copies.
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

// Call function(offset, V()) for 0 .. n: V is Vector, then float for the rest.
template <typename F>
inline void for_each_vector(int64_t n, const F& function) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) function(i, Vector());
  for (; i < n; ++i) function(i, float());
}

// Call function<V, vectors>(offset) for 0 .. n: four vectors at a time, which covers whole cache
// lines of each pixel; then single vectors, then floats.
template <typename F>
inline void for_each_vectors(int64_t n, const F& function) {
  constexpr int kTogether = 4;
  int64_t c = 0;
  for (; c + kTogether * kLanes <= n; c += kTogether * kLanes) {
    function.template operator()<Vector, kTogether>(c);
  }
  for (; c + kLanes <= n; c += kLanes) function.template operator()<Vector, 1>(c);
  for (; c < n; ++c) function.template operator()<float, 1>(c);
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA

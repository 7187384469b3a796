// Vectors of floats as wide as the instruction set has them, in the compiler's portable notation.
//
// All of it is in a namespace named after the instruction set, or the linker would merge functions
// that were compiled for different ones.
#pragma once

#include <cstdint>
#include <type_traits>

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

// As many integers, and bytes, as a vector has floats.
typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef Bytes UnalignedBytes __attribute__((aligned(1), may_alias));

template <typename V>
using IntegersOf = std::conditional_t<sizeof(V) == sizeof(float), int32_t, Integers>;

inline void store_bytes(uint8_t* p, int32_t v) { *p = static_cast<uint8_t>(v); }
inline void store_bytes(uint8_t* p, Integers v) {
  *reinterpret_cast<UnalignedBytes*>(p) = __builtin_convertvector(v, Bytes);
}

template <typename I>
inline I load_bytes(const uint8_t* p) {
  if constexpr (sizeof(I) == sizeof(int32_t)) return *p;
  else return __builtin_convertvector(*reinterpret_cast<const UnalignedBytes*>(p), Integers);
}

template <typename V>
inline V load(const float* p) {
  if constexpr (sizeof(V) == sizeof(float)) return *p;
  else return *reinterpret_cast<const Unaligned*>(p);
}

inline void store(float* p, float v) { *p = v; }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

template <typename V>
inline V zero() { return V{}; }

// max(v, 0) that keeps NaN.
template <typename V>
inline V relu(V v) { return v < 0.0f ? zero<V>() : v; }

// Call function(offset, V()) for all of 0 .. n: by vectors, and the rest one by one.
template <typename F>
inline void for_each_vector(int64_t n, const F& function) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) function(i, Vector());
  for (; i < n; ++i) function(i, float());
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA

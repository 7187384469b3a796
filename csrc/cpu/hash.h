// A hash of bytes: kHashLanes 32-bit hashes, each of some of the words.
//
// A step is a bijection of the lane for a given word, and of the word for a given lane, so a change
// of one word always changes its lane. The shift before the product lets high bits change low ones.
// Without it, flipping the sign bits of an even number of words would change nothing.
#pragma once

#include <cstring>

#include "kernel_configs.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// `lanes` is written. The bytes are read in kStreams places at once, a line from each in turn: one
// core waits for more lines of memory together than in one place. What does not fill a line of each
// is hashed with zeros behind it: the caller hashes the number of bytes.
inline void hash(const void* data, int64_t bytes, uint32_t* lanes) {
  typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  constexpr int kVectorsOfLanes = kHashLanes / kLanes;  // several, as products take many cycles
  constexpr int64_t kBlock = kHashLanes * sizeof(uint32_t);
  constexpr int64_t kLineBytes = kLine * sizeof(float);
  constexpr int64_t kStreams = kBlock / kLineBytes;
  constexpr int64_t kAhead = 1024;
  constexpr uint32_t kSeed = 0x9e3779b9, kOdd = 0x85ebca6b;  // golden ratio; of MurmurHash3
  const auto begin = static_cast<const unsigned char*>(data);
  Words h[kVectorsOfLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kVectorsOfLanes; ++i) h[i] = kSeed + Words{};
  const auto add = [&](const unsigned char* line, int64_t stride) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectorsOfLanes; ++i) {
      const int64_t at = i * int64_t(sizeof(Words));
      Words words;
      std::memcpy(&words, line + at / kLineBytes * stride + at % kLineBytes, sizeof(Words));
      h[i] ^= words;
      h[i] ^= h[i] >> 16;
      h[i] *= kOdd;
    }
  };
  const int64_t stream = bytes / kBlock * kLineBytes;
  for (int64_t at = 0; at < stream; at += kLineBytes) {
    // Hardware prefetchers stop at page boundaries.
    for (int64_t i = 0; i < kStreams; ++i) {
      __builtin_prefetch(begin + i * stream + at + kAhead);
    }
    add(begin + at, stream);
  }
  if (bytes % kBlock != 0) {
    unsigned char last[kBlock] = {};
    std::memcpy(last, begin + kStreams * stream, bytes % kBlock);
    add(last, kLineBytes);
  }
  std::memcpy(lanes, h, kBlock);
}

constexpr HashConfig kHash{.hash = hash};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA

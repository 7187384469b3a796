// A digest of tensors in one pass over memory. Chunks are hashed in parallel, then their hashes in
// order, so the digest does not depend on the number of threads.

#include "../fingerprint.h"

#include <algorithm>
#include <vector>

#include "kernel_configs.h"
#include "partition.h"

namespace googlenet_fast {
namespace {

constexpr int64_t kChunk = 64 << 10;  // bytes
constexpr int64_t kGrain = 4;         // chunks that are worth a thread

// A bijection of the state for a given value, and of the value for a given state.
uint64_t mix(uint64_t state, uint64_t value) {
  state ^= value;
  state ^= state >> 32;
  return state * 0x9e3779b97f4a7c15;  // odd, near 2^64 / golden ratio
}

uint64_t hash(const Bytes& chunk) {
  uint32_t lanes[cpu::kHashLanes];
  cpu::kernel_configs().hash.hash(chunk.data, chunk.count, lanes);
  uint64_t state = 0;
  for (int i = 0; i < cpu::kHashLanes; i += 2) {
    state = mix(state, uint64_t(lanes[i + 1]) << 32 | lanes[i]);
  }
  return state;
}

}  // namespace

void run_cpu(Dtype, const Fingerprint& p) {
  std::vector<Bytes> chunks;
  for (int64_t i = 0; i < p.count; ++i) {
    const auto [data, count] = p.arrays[i];
    for (int64_t at = 0; at < count; at += kChunk) {
      chunks.push_back({static_cast<const char*>(data) + at, std::min(kChunk, count - at)});
    }
  }
  std::vector<uint64_t> hashes(chunks.size());
  cpu::parallel_for_ranges(chunks.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) hashes[i] = hash(chunks[i]);
  });
  uint64_t digest = 0;
  for (int64_t i = 0; i < p.count; ++i) digest = mix(digest, p.arrays[i].count);
  for (const uint64_t value : hashes) digest = mix(digest, value);
  *p.digest = mix(digest, p.count);
}

}  // namespace googlenet_fast

#include "scratch.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace googlenet_fast::cpu {
namespace {

constexpr int64_t kFloats = 64 / sizeof(float);  // the alignment of arrays
#ifdef __SANITIZE_ADDRESS__
constexpr int64_t kGap = kFloats;  // poisoned, between arrays
#else
constexpr int64_t kGap = 0;
#endif

// A huge page, where the system has them: a Winograd transform accesses a hundred places at once,
// more pages of 4 KiB than the L1 TLB holds.
constexpr int64_t kPage = (2 << 20) / sizeof(float);  // floats

struct Free {
  void operator()(float* p) const { std::free(p); }
};

struct Block {
  std::unique_ptr<float, Free> data;
  int64_t size;
};

// Blocks are kept while a scope has arrays in them.
struct Memory {
  std::vector<Block> blocks;
  int64_t block = 0, used = 0;  // the next array is at `used` of this block, or in a later one
  int64_t next = kPage;         // minimum size of the next block
  int64_t scopes = 0;
};

thread_local Memory memory;

Block allocate(int64_t size) {
  size = (size + kPage - 1) / kPage * kPage;
  void* const data = std::aligned_alloc(kPage * sizeof(float), size * sizeof(float));
  if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(data, size * sizeof(float), MADV_HUGEPAGE);
#endif
  return {std::unique_ptr<float, Free>(static_cast<float*>(data)), size};
}

}  // namespace

Scratch::Scratch() : block_(memory.block), used_(memory.used) { ++memory.scopes; }

Scratch::~Scratch() {
  memory.block = block_;
  memory.used = used_;
  if (--memory.scopes > 0 || memory.blocks.size() < 2) return;
  memory.next = 0;  // so that one block is enough next time
  for (const Block& block : memory.blocks) memory.next += block.size;
  memory.blocks.clear();
}

float* Scratch::take_floats(int64_t count) {
  const int64_t room = (count + kGap + kFloats - 1) / kFloats * kFloats;
  const int64_t end = static_cast<int64_t>(memory.blocks.size());
  while (memory.block < end && memory.used + room > memory.blocks[memory.block].size) {
    ++memory.block;
    memory.used = 0;
  }
  if (memory.block == end) {
    memory.blocks.push_back(allocate(std::max(room, memory.next)));
    memory.next = kPage;
  }
  float* const array = memory.blocks[memory.block].data.get() + memory.used;
  memory.used += room;
  ASAN_UNPOISON_MEMORY_REGION(array, count * sizeof(float));
  ASAN_POISON_MEMORY_REGION(array + count, (room - count) * sizeof(float));
  return array;
}

}  // namespace googlenet_fast::cpu

// Per-thread memory for intermediate results, reused from call to call.
#pragma once

#include <cstdint>

namespace googlenet_fast::cpu {

// Allocates arrays, and frees them at the end of its scope. Scopes nest.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Uninitialised, aligned to 64 bytes.
  template <typename T = float>
  T* take(int64_t count) {
    const int64_t bytes = count * sizeof(T);
    return reinterpret_cast<T*>(take_floats((bytes + sizeof(float) - 1) / sizeof(float)));
  }

 private:
  float* take_floats(int64_t count);

  int64_t block_, used_;  // at the start of this scope
};

}  // namespace googlenet_fast::cpu

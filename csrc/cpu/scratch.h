// Memory for intermediate results, kept by each thread from call to call.
#pragma once

#include <cstdint>

namespace googlenet_fast::cpu {

// Takes arrays from the thread's memory and gives them back when it goes out of scope. Scopes nest.
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

  int64_t block_, used_;  // where this scope began
};

}  // namespace googlenet_fast::cpu

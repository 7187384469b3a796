// The thread that runs now, as the tracing of memory sees it.
#pragma once

#include <cstdint>

namespace cuda_emulator {

// Barriers that its block has passed are the `epoch`; within one, threads are unordered.
struct Now {
  uint32_t block, thread, epoch;
};

// Whether an address lies on the stack of a fiber.
bool on_fiber_stack(uintptr_t address);

// Calls into memory.cpp.
void begin_launch(const char* kernel);
void set_now(Now now);
void end_launch();

// Calls into fibers.cpp.
void fail(const char* what);

}  // namespace cuda_emulator

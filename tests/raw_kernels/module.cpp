// The raw kernels as functions of NumPy arrays, for tests and benchmarks: below torch's dispatcher,
// and without torch. Results are arrays of the caller's, so that they may be slices of others.

#include "arguments.h"

#ifdef GOOGLENET_FAST_CUDA_EMULATOR
extern "C" void cuda_emulator_shuffle_blocks(unsigned seed);
extern "C" const char* cuda_emulator_launches();
#else
#include <omp.h>

extern "C" const char* googlenet_fast_instruction_set();
#endif

PYBIND11_MODULE(raw_kernels, m) {
  using namespace googlenet_fast;
  m.def("partial_size", &partial_size, py::arg("rows"), py::arg("columns"), py::arg("kinds") = 1);
  bind_pools(m);
  bind_pointwise(m);
  bind_batch_norm(m);
#ifdef GOOGLENET_FAST_CUDA_EMULATOR
  bind_sgd_step(m);
  m.def("shuffle_blocks", &cuda_emulator_shuffle_blocks, py::arg("seed"));
  m.def("launches", [] { return std::string(cuda_emulator_launches()); });
  m.def("use_stream", [](uintptr_t s) { stream = reinterpret_cast<cudaStream_t>(s); });
#else
  bind_convolutions(m);
  m.def("instruction_set", &googlenet_fast_instruction_set);
  m.def("use_threads", &omp_set_num_threads, py::arg("count"));
#endif
}

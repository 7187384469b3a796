import shutil
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks.tools.cuda_resources import REPORT, SOURCES, Kernel, compile_kernels, table
from benchmarks.tools.kernel_resources import CUOBJDUMP

pytestmark = [
    pytest.mark.slow,
    pytest.mark.triton,  # its wheel has cuobjdump
    pytest.mark.skipif(
        not (shutil.which("nvcc") and shutil.which("c++filt") and CUOBJDUMP.is_file()),
        reason="needs nvcc, c++filt and cuobjdump",
    ),
]

SAMPLES = """
#include <cstdint>

template <typename T, int kWidth>
__global__ void __launch_bounds__(256) wide_kernel(const uint4* x, uint4* y) {
  y[threadIdx.x] = x[threadIdx.x];
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(256) narrow_kernel(const uint8_t* x, uint8_t* y) {
  y[threadIdx.x] = x[threadIdx.x];
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(256) double_kernel(const double* x, float* y) {
  y[threadIdx.x] = static_cast<float>(x[threadIdx.x] * 3.0);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(256) spilling_kernel(const float* x, float* y, int n) {
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = x[i * n + threadIdx.x];
  for (int i = 0; i < n; ++i) y[i] = values[(i * n) % 64];
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(256) generic_kernel(float* x, int n) {
  __shared__ float shared[256];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float* either = n > 3 ? x : shared;
  x[threadIdx.x] = either[n];
}

template __global__ void wide_kernel<float, 4>(const uint4*, uint4*);
template __global__ void narrow_kernel<float, 1>(const uint8_t*, uint8_t*);
template __global__ void narrow_kernel<float, 4>(const uint8_t*, uint8_t*);
template __global__ void double_kernel<float, 1>(const double*, float*);
template __global__ void spilling_kernel<float, 1>(const float*, float*, int);
template __global__ void generic_kernel<float, 1>(float*, int);
"""


def test_broken_rules_are_found(tmp_path: Path) -> None:
    source = tmp_path / "samples.cu"
    source.write_text(SAMPLES)
    broken = {
        (kernel.name, kernel.width): [rule.partition(": ")[2] for rule in kernel.broken_rules()]
        for kernel in compile_kernels(source, 90)
    }
    assert broken.pop(("spilling", 1))[0].startswith("spills ")
    assert broken == {
        ("wide", 4): [],
        ("narrow", 1): [],
        ("narrow", 4): ["moves no 16 bytes at a time", "has 2 accesses of one or two bytes"],
        ("double", 1): ["computes in double precision"],
        ("generic", 1): ["has 1 accesses by generic addresses"],
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_follow_the_rules_and_match_the_report(source: Path) -> None:
    kernels: list[Kernel] = compile_kernels(source, 90)
    assert [rule for kernel in kernels for rule in kernel.broken_rules()] == []
    assert {kernel.dtype for kernel in kernels} == {"float32", "float16", "bfloat16"}
    reported = [line.split("|")[1:5] for line in REPORT.read_text().splitlines()]
    rows = [line.split("|")[1:5] for line in table(kernels).splitlines()[2:]]
    assert rows
    assert all(row in reported for row in rows)

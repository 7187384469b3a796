// Local response normalisation, one pixel at a time.

#include "../local_response_norm.h"

#include "kernel_configs.h"
#include "partition.h"
#include "scratch.h"

namespace googlenet_fast {
namespace {

constexpr int64_t kPixels = 64;  // per task

float* row(const Matrix& m, int64_t i) { return static_cast<float*>(m.data) + i * m.stride; }

}  // namespace

void run_cpu(Dtype, const LocalResponseNorm& p) {
  const Normalization& n = p.norm;
  cpu::parallel_for_ranges(n.rows, kPixels, [&](int64_t begin, int64_t end) {
    cpu::Scratch scratch;
    float* const padded = scratch.take(n.channels + n.size);
    for (int64_t i = begin; i < end; ++i) {
      cpu::kernel_configs().lrn.lrn(
          row(p.x, i), n.channels, n.size, n.alpha / n.size, n.beta, n.k, padded, row(p.y, i));
    }
  });
}

void run_cpu(Dtype, const LocalResponseNormBackward& p) {
  const Normalization& n = p.norm;
  cpu::parallel_for_ranges(n.rows, kPixels, [&](int64_t begin, int64_t end) {
    cpu::Scratch scratch;
    float* const padded = scratch.take(2 * (n.channels + n.size));
    for (int64_t i = begin; i < end; ++i) {
      cpu::kernel_configs().lrn.lrn_backward(
          row(p.grad_y, i), row(p.x, i), n.channels, n.size, n.alpha / n.size, n.beta, n.k, padded,
          row(p.grad_x, i));
    }
  });
}

}  // namespace googlenet_fast

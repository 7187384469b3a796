// Local response normalisation, a row of channels at a time: one read and one write.

#include "../local_response_norm.h"

#include <torch/csrc/stable/ops.h>

#include "isa.h"
#include "scratch.h"

namespace googlenet_fast {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kGrain = 64;  // rows that are worth a thread

float* row(const Matrix& m, int64_t i) { return static_cast<float*>(m.data) + i * m.stride; }

}  // namespace

void run_cpu(Dtype, const LocalResponseNorm& p) {
  const Normalization& n = p.norm;
  parallel_for(0, n.rows, kGrain, [&](int64_t begin, int64_t end) {
    cpu::Scratch scratch;
    float* const wide = scratch.take(n.channels + n.size);
    for (int64_t i = begin; i < end; ++i) {
      cpu::isa().normalize(
          row(p.x, i), n.channels, n.size, n.alpha / n.size, n.beta, n.k, wide, row(p.y, i));
    }
  });
}

void run_cpu(Dtype, const LocalResponseNormBackward& p) {
  const Normalization& n = p.norm;
  parallel_for(0, n.rows, kGrain, [&](int64_t begin, int64_t end) {
    cpu::Scratch scratch;
    float* const wide = scratch.take(2 * (n.channels + n.size));
    for (int64_t i = begin; i < end; ++i) {
      cpu::isa().normalize_backward(
          row(p.grad_y, i), row(p.x, i), n.channels, n.size, n.alpha / n.size, n.beta, n.k, wide,
          row(p.grad_x, i));
    }
  });
}

}  // namespace googlenet_fast

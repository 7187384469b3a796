// Local response normalisation, a row of channels at a time: one read and one write.

#include "../local_response_norm.h"

#include "isa.h"
#include "parts.h"
#include "scratch.h"

namespace googlenet_fast {
namespace {

constexpr int64_t kGrain = 64;  // rows that are worth a thread

float* row(const Matrix& m, int64_t i) { return static_cast<float*>(m.data) + i * m.stride; }

}  // namespace

void run_cpu(Dtype, const LocalResponseNorm& p) {
  const Normalization& n = p.norm;
  cpu::for_each_range(n.rows, kGrain, [&](int64_t begin, int64_t end) {
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
  cpu::for_each_range(n.rows, kGrain, [&](int64_t begin, int64_t end) {
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

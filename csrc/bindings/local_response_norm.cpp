#include "../local_response_norm.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

Normalization normalization_of(
    const Check& check, const Tensor& x, int64_t size, double alpha, double beta, double k) {
  check.that(
      size == kNormalizedChannels, "size", "be a window of ", kNormalizedChannels,
      " channels, not ", size);
  return {
      x.size(0) * x.size(2) * x.size(3),
      x.size(1),
      static_cast<int>(size),
      static_cast<float>(alpha),
      static_cast<float>(beta),
      static_cast<float>(k)};
}

Tensor local_response_norm(Tensor given, int64_t size, double alpha, double beta, double k) {
  const Check check("local_response_norm", given);
  check.image("x", given);
  const Normalization norm = normalization_of(check, given, size, alpha, beta, k);
  const Tensor x = in_fp32_on_cpu(given);
  const Rows rows = rows_of(x);
  const Tensor y = empty_channels_last(x, x.size(1));
  run(x, LocalResponseNorm{norm, rows.matrix, matrix_of(y)});
  return as_dtype(y, given.scalar_type());
}

Tensor local_response_norm_backward(
    Tensor grad_given, Tensor given, int64_t size, double alpha, double beta, double k) {
  const Check check("local_response_norm_backward", given);
  check.image("x", given);
  check.same_pixels("grad_y", grad_given, given, given.size(1));
  const Normalization norm = normalization_of(check, given, size, alpha, beta, k);
  const Tensor grad_y = in_fp32_on_cpu(grad_given), x = in_fp32_on_cpu(given);
  const Rows grad_rows = rows_of(grad_y), rows = rows_of(x);
  const Tensor grad_x = empty_channels_last(x, x.size(1));
  run(x, LocalResponseNormBackward{norm, grad_rows.matrix, rows.matrix, matrix_of(grad_x)});
  return as_dtype(grad_x, given.scalar_type());
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("local_response_norm", TORCH_BOX(&googlenet_fast::local_response_norm));
  m.impl("local_response_norm_backward", TORCH_BOX(&googlenet_fast::local_response_norm_backward));
}

REGISTER_CUDA(m) {
  m.impl("local_response_norm", TORCH_BOX(&googlenet_fast::local_response_norm));
  m.impl("local_response_norm_backward", TORCH_BOX(&googlenet_fast::local_response_norm_backward));
}

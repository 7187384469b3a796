#include "../bias_relu_pool.h"

#include "pooling.h"

namespace googlenet_fast {
namespace {

std::tuple<Tensor, std::optional<Tensor>> forward(
    const char* op, const Tensor& given, const std::optional<Tensor>& bias, bool relu,
    bool ceil_mode, bool training) {
  const Check check(op, given);
  check.image("x", given);
  if (bias.has_value()) check.tensor("bias", *bias, kFloats, {given.size(1)});
  const Tensor x = in_fp32_on_cpu(given);
  const int64_t out_height = pooled_size(x.size(2), ceil_mode);
  const int64_t out_width = pooled_size(x.size(3), ceil_mode);
  check.that(out_height > 0 && out_width > 0, "x", "be as large as a window");
  BiasReluPool p{};
  p.shape = pool_shape(check, "x", x, x.size(2), x.size(3), out_height, out_width);
  const Rows rows = rows_of(x);
  p.x = rows.matrix;
  std::optional<Tensor> own_bias, index;
  if (bias.has_value()) {
    own_bias = dense_bias(*bias, x);
    p.bias = own_bias->data_ptr();
  }
  p.relu = relu;
  const Tensor y = empty_channels_last(x, x.scalar_type(), x.size(1), out_height, out_width);
  p.y = matrix_of(y);
  if (training) {
    index = empty_channels_last(x, ScalarType::Byte, x.size(1), out_height, out_width);
    p.index = static_cast<uint8_t*>(index->data_ptr());
  }
  run(x, p);
  return {as_dtype(y, given.scalar_type()), index};
}

Tensor bias_relu_pool(Tensor x, std::optional<Tensor> bias, bool relu, bool ceil_mode) {
  return std::get<0>(forward("bias_relu_pool", x, bias, relu, ceil_mode, false));
}

std::tuple<Tensor, Tensor> bias_relu_pool_training(
    Tensor x, std::optional<Tensor> bias, bool relu, bool ceil_mode) {
  const auto [y, index] = forward("bias_relu_pool_training", x, bias, relu, ceil_mode, true);
  return {y, *index};
}

std::tuple<Tensor, Tensor> bias_relu_pool_backward(
    Tensor given, Tensor index, int64_t height, int64_t width, bool bias) {
  const Check check("bias_relu_pool_backward", given);
  check.image("grad_y", given);
  const int64_t out_height = given.size(2), out_width = given.size(3);
  check_pooled(check, "height and width", height, width, out_height, out_width);
  BiasReluPoolBackward p{};
  p.shape = pool_shape(check, "height and width", given, height, width, out_height, out_width);
  const Tensor dense = dense_index(check, index, given);
  const Tensor grad_y = in_fp32_on_cpu(given);
  const Rows grad_rows = rows_of(grad_y);
  const int64_t channels = grad_y.size(1), pixels = grad_y.size(0) * height * width;
  const Tensor grad_x = empty_channels_last(grad_y, grad_y.scalar_type(), channels, height, width);
  p.grad_y = grad_rows.matrix;
  p.index = static_cast<const uint8_t*>(dense.data_ptr());
  p.grad_x = matrix_of(grad_x);
  const Tensor partial = empty_sums(grad_y, {bias ? partial_size(pixels, channels) : 0});
  const Tensor grad_bias = empty_sums(grad_y, {bias ? channels : 0});
  if (bias) {
    p.partial = partial.data_ptr();
    p.grad_bias = grad_bias.data_ptr();
  }
  run(grad_y, p);
  return {as_dtype(grad_x, given.scalar_type()), grad_bias};
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("bias_relu_pool", TORCH_BOX(&googlenet_fast::bias_relu_pool));
  m.impl("bias_relu_pool_training", TORCH_BOX(&googlenet_fast::bias_relu_pool_training));
  m.impl("bias_relu_pool_backward", TORCH_BOX(&googlenet_fast::bias_relu_pool_backward));
}

REGISTER_CUDA(m) {
  m.impl("bias_relu_pool", TORCH_BOX(&googlenet_fast::bias_relu_pool));
  m.impl("bias_relu_pool_training", TORCH_BOX(&googlenet_fast::bias_relu_pool_training));
  m.impl("bias_relu_pool_backward", TORCH_BOX(&googlenet_fast::bias_relu_pool_backward));
}

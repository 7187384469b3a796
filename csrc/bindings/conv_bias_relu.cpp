#include "../conv_bias_relu.h"

#include "../bindings.h"
#include "prepared.h"

namespace googlenet_fast {
namespace {

ConvShape shape_of(const Tensor& x, const Tensor& weight, int64_t stride) {
  STD_TORCH_CHECK(
      x.dim() == 4 && weight.dim() == 4 && weight.size(1) == x.size(1) &&
          weight.size(2) == weight.size(3),
      "conv_bias_relu: x must be (N, C, H, W) and the weight (K, C, T, T)");
  STD_TORCH_CHECK(
      x.scalar_type() == ScalarType::Float,
      "conv_bias_relu: the kernel for CPUs takes fp32 and bf16");
  const int64_t taps = weight.size(2);
  STD_TORCH_CHECK(
      stride == 1 ? taps == 1 || taps == 3 || taps == 5 : stride == 2 && taps == 7,
      "conv_bias_relu: the kernel for CPUs takes weights of 1x1, 3x3 and 5x5 with stride 1, and of 7x7"
      " with stride 2");
  return {x.size(0), x.size(2), x.size(3), x.size(1), weight.size(0), static_cast<int>(taps)};
}

int64_t output_side(int64_t input_side, int64_t stride) {
  return (input_side + stride - 1) / stride;
}

void check_output(const Tensor& t, const ConvShape& s, int64_t stride) {
  STD_TORCH_CHECK(
      t.dim() == 4 && t.size(0) == s.images && t.size(1) == s.outputs &&
          t.size(2) == output_side(s.height, stride) && t.size(3) == output_side(s.width, stride),
      "conv_bias_relu_backward: sizes do not fit together");
}

Tensor forward(
    const Tensor& given, const Tensor& weight, const std::optional<Tensor>& bias, bool relu,
    int64_t stride, const Tensor* prepared) {
  const Tensor x = in_fp32_on_cpu(given);
  ConvBiasRelu p{};
  p.shape = shape_of(x, weight, stride);
  const Rows rows = rows_of(x);
  std::optional<Tensor> dense;
  if (prepared == nullptr) {
    dense = dense_weight("conv_bias_relu", weight);
    p.weight = dense->data_ptr();
  } else {
    const ConvShape& s = p.shape;
    p.prepared =
        prepared_data("conv_bias_relu_prepared", *prepared, x, s.outputs, s.channels, s.taps);
  }
  const Tensor y = empty_channels_last(
      x, x.scalar_type(), p.shape.outputs, output_side(p.shape.height, stride),
      output_side(p.shape.width, stride));
  std::optional<Tensor> dense_bias;
  if (bias.has_value()) {
    dense_bias = bias_of("conv_bias_relu", *bias, y);
    p.bias = dense_bias->data_ptr();
  }
  p.x = rows.matrix, p.relu = relu, p.y = matrix_of(y);
  run(x, p);
  return as_dtype(y, given.scalar_type());
}

Tensor conv_bias_relu(
    Tensor x, Tensor weight, std::optional<Tensor> bias, bool relu, int64_t stride) {
  return forward(x, weight, bias, relu, stride, nullptr);
}

Tensor conv_bias_relu_prepared(
    Tensor x, Tensor weight, std::optional<Tensor> bias, bool relu, int64_t stride,
    Tensor prepared) {
  return forward(x, weight, bias, relu, stride, &prepared);
}

Tensor prepare_weight(Tensor weight, int64_t height, int64_t width) {
  const Tensor dense = dense_weight("prepare_weight", weight);
  PrepareWeight p{
      height, width, weight.size(0), weight.size(1), static_cast<int>(weight.size(2)),
      dense.data_ptr(), nullptr};
  STD_TORCH_CHECK(
      p.taps == 1 || p.taps == 3 || p.taps == 5 || p.taps == 7,
      "prepare_weight: the kernels for CPUs take weights of 1x1, 3x3, 5x5 and 7x7");
  STD_TORCH_CHECK(
      height >= 0 && width >= 0, "prepare_weight: images of ", height, "x", width, " do not exist");
  const Tensor prepared = torch::stable::empty({prepared_size(p)}, ScalarType::Float);
  p.prepared = prepared.data_ptr();
  run(dense, p);
  return prepared;
}

int64_t tile_points_of(Tensor weight, int64_t height, int64_t width) {
  return tile_points(height, width, static_cast<int>(weight.size(2)), weight.size(1));
}

std::tuple<Tensor, Tensor> conv_bias_relu_backward(
    Tensor grad_given, Tensor given, std::optional<Tensor> y_given, Tensor weight, int64_t stride,
    bool need_x, bool need_parameters) {
  const Tensor grad_y = in_fp32_on_cpu(grad_given), x = in_fp32_on_cpu(given);
  std::optional<Tensor> y;
  if (y_given.has_value()) y = in_fp32_on_cpu(*y_given);
  ConvBiasReluBackward p{};
  p.shape = shape_of(x, weight, stride);
  check_output(grad_y, p.shape, stride);
  if (y.has_value()) check_output(*y, p.shape, stride);
  const Rows grad_rows = rows_of(grad_y), x_rows = rows_of(x);
  std::optional<Rows> y_rows;
  if (y.has_value()) {
    y_rows = rows_of(*y);
    p.y = y_rows->matrix;
  }
  const Tensor dense = dense_weight("conv_bias_relu", weight);
  const Tensor grad_x = need_x ? empty_channels_last(x, x.size(1)) : empty_sums(x, {0});
  const Tensor grads =
      empty_sums(x, {need_parameters ? weight.numel() + p.shape.outputs : 0});
  p.grad_y = grad_rows.matrix, p.x = x_rows.matrix, p.weight = dense.data_ptr();
  if (need_x) p.grad_x = matrix_of(grad_x);
  if (need_parameters) p.grads = grads.data_ptr();
  run(x, p);
  return {as_dtype(grad_x, given.scalar_type()), grads};
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("conv_bias_relu", TORCH_BOX(&googlenet_fast::conv_bias_relu));
  m.impl("conv_bias_relu_prepared", TORCH_BOX(&googlenet_fast::conv_bias_relu_prepared));
  m.impl("prepare_weight", TORCH_BOX(&googlenet_fast::prepare_weight));
  m.impl("tile_points", TORCH_BOX(&googlenet_fast::tile_points_of));
  m.impl("conv_bias_relu_backward", TORCH_BOX(&googlenet_fast::conv_bias_relu_backward));
}

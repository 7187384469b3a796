#include "../conv_bias_relu.h"

#include "../bindings.h"
#include "packed.h"

namespace googlenet_fast {
namespace {

// The shape of a convolution that the kernels take, of x and weight.
ConvShape shape_of(const Check& check, const Tensor& x, const Tensor& weight, int64_t stride) {
  check.image("x", x);
  check.tensor("weight", weight, kComputedInFp32, {kAny, x.size(1), kAny, kAny});
  const int64_t taps = weight.size(2);
  check.that(
      weight.size(3) == taps &&
          (stride == 1 ? taps == 1 || taps == 3 || taps == 5 : stride == 2 && taps == 7),
      "weight and stride", "be 1x1, 3x3 or 5x5 with stride 1, or 7x7 with stride 2, not ", taps,
      "x", weight.size(3), " with ", stride);
  return {x.size(0), x.size(2), x.size(3), x.size(1), weight.size(0), static_cast<int>(taps)};
}

int64_t output_side(int64_t input_side, int64_t stride) {
  return (input_side + stride - 1) / stride;
}

Tensor conv_bias_relu(
    Tensor given, Tensor weight, std::optional<Tensor> bias, bool relu, int64_t stride,
    std::vector<Tensor> packed) {
  const Check check("conv_bias_relu", given);
  ConvBiasRelu p{};
  p.shape = shape_of(check, given, weight, stride);
  const ConvShape& s = p.shape;
  if (bias.has_value()) check.tensor("bias", *bias, kFloats, {s.outputs});
  check.that(packed.size() <= 1, "packed", "be one weight or none, not ", packed.size());
  std::optional<Tensor> own_weight, own_bias;
  if (packed.empty()) {
    own_weight = dense_weight(weight);
    p.weight = own_weight->data_ptr();
  } else {
    p.packed = packed_data(check, packed[0], given, s.outputs, s.channels, s.taps);
  }
  const Tensor x = in_fp32_on_cpu(given);
  const Rows rows = rows_of(x);
  const Tensor y = empty_channels_last(
      x, x.scalar_type(), s.outputs, output_side(s.height, stride), output_side(s.width, stride));
  if (bias.has_value()) {
    own_bias = dense_bias(*bias, x);
    p.bias = own_bias->data_ptr();
  }
  p.x = rows.matrix, p.relu = relu, p.y = matrix_of(y);
  run(x, p);
  return as_dtype(y, given.scalar_type());
}

Tensor pack_weight(Tensor weight, int64_t height, int64_t width) {
  const Check check("pack_weight", weight);
  check.image("weight", weight);
  const int64_t taps = weight.size(2);
  check.that(
      weight.size(3) == taps && (taps == 1 || taps == 3 || taps == 5 || taps == 7), "weight",
      "be 1x1, 3x3, 5x5 or 7x7, not ", taps, "x", weight.size(3));
  check.that(
      height >= 0 && width >= 0 && product_fits(Sizes{height, width}, int64_t(1) << 46),
      "height and width", "be those of images, not ", height, "x", width);
  const Tensor dense = dense_weight(weight);
  PackWeight p{height,           width,  weight.size(0), weight.size(1), static_cast<int>(taps),
               dense.data_ptr(), nullptr};
  const Tensor packed = torch::stable::empty({packed_size(p)}, ScalarType::Float);
  p.packed = packed.data_ptr();
  run(dense, p);
  return packed;
}

std::tuple<Tensor, Tensor> conv_bias_relu_backward(
    Tensor grad_given, Tensor given, std::optional<Tensor> y_given, Tensor weight, int64_t stride,
    bool need_x, bool need_parameters) {
  const Check check("conv_bias_relu_backward", given);
  ConvBiasReluBackward p{};
  p.shape = shape_of(check, given, weight, stride);
  const ConvShape& s = p.shape;
  const Sizes output{
      s.images, s.outputs, output_side(s.height, stride), output_side(s.width, stride)};
  check.activation("grad_y", grad_given, output);
  if (y_given.has_value()) check.activation("y", *y_given, output);
  const Tensor grad_y = in_fp32_on_cpu(grad_given), x = in_fp32_on_cpu(given);
  const Rows grad_rows = rows_of(grad_y), x_rows = rows_of(x);
  std::optional<Rows> y_rows;
  if (y_given.has_value()) {
    y_rows = rows_of(in_fp32_on_cpu(*y_given));
    p.y = y_rows->matrix;
  }
  const Tensor dense = dense_weight(weight);
  const Tensor grad_x = need_x ? empty_channels_last(x, x.size(1)) : empty_sums(x, {0});
  const Tensor grads = empty_sums(x, {need_parameters ? weight.numel() + s.outputs : 0});
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
  m.impl("pack_weight", TORCH_BOX(&googlenet_fast::pack_weight));
  m.impl("conv_bias_relu_backward", TORCH_BOX(&googlenet_fast::conv_bias_relu_backward));
}

#include "../inception.h"

#include "../bindings.h"
#include "prepared.h"

namespace googlenet_fast {
namespace {

using Optional = std::optional<Tensor>;

std::vector<Tensor> dense_weights(const char* op, std::initializer_list<const Tensor*> weights) {
  std::vector<Tensor> dense;
  for (const Tensor* weight : weights) dense.push_back(dense_weight(op, *weight));
  return dense;
}

InceptionWeights pointers_to(const std::vector<Tensor>& weights) {
  return {
      weights[0].data_ptr(), weights[1].data_ptr(), weights[2].data_ptr(), weights[3].data_ptr()};
}

PreparedWeights pointers_to(
    const std::vector<Tensor>& prepared, const Tensor& x, const InceptionShape& s) {
  STD_TORCH_CHECK(prepared.size() == 5, "inception_prepared: give five prepared weights");
  const auto data = [&](int i, int64_t outputs, int64_t channels, int taps) {
    return prepared_data("inception_prepared", prepared[i], x, outputs, channels, taps);
  };
  return {
      data(0, s.c1, s.channels, 1), data(1, s.reductions(), s.channels, 1),
      data(2, s.c3, s.c3_reduce, s.taps3), data(3, s.c5, s.c5_reduce, s.taps5),
      data(4, s.project, s.channels, 1)};
}

InceptionShape shape_of(
    const Tensor& x, const Tensor& w_in, const Tensor& w3, const Tensor& w5, const Tensor& wp) {
  STD_TORCH_CHECK(x.dim() == 4, "inception: x must be (N, C, H, W)");
  STD_TORCH_CHECK(
      x.scalar_type() == ScalarType::Float, "inception: the kernel for CPUs takes fp32 and bf16");
  InceptionShape s{};
  s.images = x.size(0), s.height = x.size(2), s.width = x.size(3), s.channels = x.size(1);
  s.c3_reduce = w3.size(1), s.c3 = w3.size(0), s.c5_reduce = w5.size(1), s.c5 = w5.size(0);
  s.c1 = w_in.size(0) - s.reductions(), s.project = wp.size(0);
  s.taps3 = w3.size(2), s.taps5 = w5.size(2);
  STD_TORCH_CHECK(
      s.c1 > 0 && w_in.size(1) == s.channels && wp.size(1) == s.channels,
      "inception: weights do not fit together, or not to x");
  STD_TORCH_CHECK(
      w_in.size(2) == 1 && wp.size(2) == 1 && (s.taps3 == 3 || s.taps3 == 5) &&
          (s.taps5 == 3 || s.taps5 == 5),
      "inception: the kernel for CPUs takes weights of 1x1, 3x3 and 5x5");
  return s;
}

std::tuple<Tensor, Tensor, Optional> forward(
    const Tensor& given, const Tensor& w_in, const Optional& b_in, const Tensor& w3,
    const Optional& b3, const Tensor& w5, const Optional& b5, const Tensor& wp, const Optional& bp,
    bool reduce_relu, bool training, const std::vector<Tensor>* prepared) {
  const Tensor x = in_fp32_on_cpu(given);
  Inception p{};
  p.shape = shape_of(x, w_in, w3, w5, wp);
  const Rows rows = rows_of(x);
  std::vector<Tensor> weights;
  if (prepared == nullptr) {
    weights = dense_weights("inception", {&w_in, &w3, &w5, &wp});
    p.weights = pointers_to(weights);
  } else {
    p.prepared = pointers_to(*prepared, x, p.shape);
  }
  std::vector<Tensor> biases;
  if (b_in.has_value()) {
    const Optional* all[] = {&b_in, &b3, &b5, &bp};
    const int64_t outputs[] = {w_in.size(0), p.shape.c3, p.shape.c5, p.shape.project};
    for (int i = 0; i < 4; ++i) {
      STD_TORCH_CHECK(
          all[i]->has_value() && (*all[i])->size(0) == outputs[i],
          "inception: give all four biases or none, a value for each output");
      biases.push_back(dense(**all[i], ScalarType::Float));
    }
    p.b_in = biases[0].data_ptr(), p.b3 = biases[1].data_ptr();
    p.b5 = biases[2].data_ptr(), p.bp = biases[3].data_ptr();
  }
  const Tensor y = empty_channels_last(x, p.shape.outputs());
  const Tensor r = empty_channels_last(x, p.shape.reductions());
  Optional index;
  if (training) {
    index = empty_channels_last(x, ScalarType::Byte, x.size(1), x.size(2), x.size(3));
    p.index = static_cast<uint8_t*>(index->data_ptr());
  }
  p.x = rows.matrix, p.r = matrix_of(r), p.y = matrix_of(y);
  p.reduce_relu = reduce_relu;
  run(x, p);
  const ScalarType dtype = given.scalar_type();
  return {as_dtype(y, dtype), as_dtype(r, dtype), index};
}

Tensor inception(
    Tensor x, Tensor w_in, Optional b_in, Tensor w3, Optional b3, Tensor w5, Optional b5, Tensor wp,
    Optional bp, bool reduce_relu) {
  return std::get<0>(forward(x, w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu, false, nullptr));
}

Tensor inception_prepared(
    Tensor x, Tensor w_in, Optional b_in, Tensor w3, Optional b3, Tensor w5, Optional b5, Tensor wp,
    Optional bp, bool reduce_relu, std::vector<Tensor> prepared) {
  return std::get<0>(
      forward(x, w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu, false, &prepared));
}

std::tuple<Tensor, Tensor, Tensor> inception_training(
    Tensor x, Tensor w_in, Optional b_in, Tensor w3, Optional b3, Tensor w5, Optional b5, Tensor wp,
    Optional bp, bool reduce_relu) {
  const auto [y, r, index] =
      forward(x, w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu, true, nullptr);
  return {y, r, *index};
}

std::tuple<Tensor, Tensor> inception_backward(
    Tensor grad_given, Tensor given, Tensor r_given, Tensor y_given, Tensor index, Tensor w_in,
    Tensor w3, Tensor w5, Tensor wp, bool reduce_relu, bool need_x, bool need_parameters) {
  const Tensor grad_y = in_fp32_on_cpu(grad_given), x = in_fp32_on_cpu(given);
  const Tensor r = in_fp32_on_cpu(r_given), y = in_fp32_on_cpu(y_given);
  InceptionBackward p{};
  p.shape = shape_of(x, w_in, w3, w5, wp);
  for (const Tensor* other : {&grad_y, &r, &y}) check_same_pixels("inception_backward", *other, x);
  STD_TORCH_CHECK(
      grad_y.size(1) == p.shape.outputs() && y.size(1) == p.shape.outputs() &&
          r.size(1) == p.shape.reductions() && index.size(1) == p.shape.channels,
      "inception_backward: sizes do not fit together");
  const Rows grad_rows = rows_of(grad_y), x_rows = rows_of(x), r_rows = rows_of(r);
  const Rows y_rows = rows_of(y);
  const Tensor dense_index = dense_channels_last(index);
  const auto weights = dense_weights("inception_backward", {&w_in, &w3, &w5, &wp});
  int64_t count = 0;
  for (const Tensor& w : weights) count += w.numel() + w.size(0);
  const Tensor grad_x = need_x ? empty_channels_last(x, x.size(1)) : empty_sums(x, {0});
  const Tensor grads = empty_sums(x, {need_parameters ? count : 0});
  p.weights = pointers_to(weights);
  p.reduce_relu = reduce_relu;
  p.grad_y = grad_rows.matrix, p.x = x_rows.matrix, p.r = r_rows.matrix, p.y = y_rows.matrix;
  p.index = static_cast<const uint8_t*>(dense_index.data_ptr());
  if (need_x) p.grad_x = matrix_of(grad_x);
  if (need_parameters) p.grads = grads.data_ptr();
  run(x, p);
  return {as_dtype(grad_x, given.scalar_type()), grads};
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("inception", TORCH_BOX(&googlenet_fast::inception));
  m.impl("inception_prepared", TORCH_BOX(&googlenet_fast::inception_prepared));
  m.impl("inception_training", TORCH_BOX(&googlenet_fast::inception_training));
  m.impl("inception_backward", TORCH_BOX(&googlenet_fast::inception_backward));
}

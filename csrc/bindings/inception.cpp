#include "../inception.h"

#include "../bindings.h"
#include "packed.h"
#include "pooling.h"

namespace googlenet_fast {
namespace {

using Optional = std::optional<Tensor>;

// The weights w_in, w3, w5 and wp of a block, and their biases.
struct Arguments {
  const Tensor& x;
  std::array<const Tensor*, 4> weights;
  std::array<const Optional*, 4> biases;
};

constexpr const char* kWeights[] = {"w_in", "w3", "w5", "wp"};
constexpr const char* kBiases[] = {"b_in", "b3", "b5", "bp"};

InceptionShape shape_of(
    const Check& check, const Tensor& x, const std::array<const Tensor*, 4>& weights) {
  check.image("x", x);
  const int64_t channels = x.size(1);
  for (int i = 0; i < 4; ++i) {
    const Tensor& w = *weights[i];
    const bool reads_x = i == 0 || i == 3;
    const int64_t taps = reads_x ? 1 : kAny;
    check.tensor(kWeights[i], w, kComputedInFp32, {kAny, reads_x ? channels : kAny, taps, taps});
    check.that(
        reads_x || (w.size(2) == w.size(3) && (w.size(2) == 3 || w.size(2) == 5)), kWeights[i],
        "be 3x3 or 5x5, not ", w.size(2), "x", w.size(3));
  }
  const auto [w_in, w3, w5, wp] = weights;
  InceptionShape s{};
  s.images = x.size(0), s.height = x.size(2), s.width = x.size(3), s.channels = channels;
  s.c3_reduce = w3->size(1), s.c3 = w3->size(0), s.c5_reduce = w5->size(1), s.c5 = w5->size(0);
  s.c1 = w_in->size(0) - s.reductions(), s.project = wp->size(0);
  s.taps3 = static_cast<int>(w3->size(2)), s.taps5 = static_cast<int>(w5->size(2));
  check.that(
      s.c1 > 0, "w_in", "have more outputs than w3 and w5 have inputs, ", s.reductions(), ", not ",
      w_in->size(0));
  check.that(s.project > 0, "wp", "have outputs");
  return s;
}

std::vector<Tensor> dense_weights(const std::array<const Tensor*, 4>& weights) {
  std::vector<Tensor> dense;
  for (const Tensor* weight : weights) dense.push_back(dense_weight(*weight));
  return dense;
}

InceptionWeights pointers_to(const std::vector<Tensor>& weights) {
  return {
      weights[0].data_ptr(), weights[1].data_ptr(), weights[2].data_ptr(), weights[3].data_ptr()};
}

PackedWeights pointers_to(
    const Check& check, const std::vector<Tensor>& packed, const Tensor& x,
    const InceptionShape& s) {
  check.that(packed.size() == 5, "packed", "be five weights or none, not ", packed.size());
  const auto data = [&](int i, int64_t outputs, int64_t channels, int taps) {
    return packed_data(check, packed[i], x, outputs, channels, taps);
  };
  return {
      data(0, s.c1, s.channels, 1), data(1, s.reductions(), s.channels, 1),
      data(2, s.c3, s.c3_reduce, s.taps3), data(3, s.c5, s.c5_reduce, s.taps5),
      data(4, s.project, s.channels, 1)};
}

// The biases of a block, or none.
std::vector<Tensor> dense_biases(const Check& check, const Arguments& given) {
  std::vector<Tensor> dense;
  for (int i = 0; i < 4; ++i) {
    const Optional& bias = *given.biases[i];
    check.that(
        bias.has_value() == given.biases[0]->has_value(), kBiases[i],
        "be given if b_in is, and only then");
    if (!bias.has_value()) continue;
    check.tensor(kBiases[i], *bias, kFloats, {given.weights[i]->size(0)});
    dense.push_back(dense_bias(*bias, given.x));
  }
  return dense;
}

std::tuple<Tensor, Tensor, Optional> forward(
    const char* op, const Arguments& given, bool reduce_relu, bool training,
    const std::vector<Tensor>& packed) {
  const Check check(op, given.x);
  Inception p{};
  p.shape = shape_of(check, given.x, given.weights);
  const std::vector<Tensor> biases = dense_biases(check, given);
  if (!biases.empty()) {
    p.b_in = biases[0].data_ptr(), p.b3 = biases[1].data_ptr();
    p.b5 = biases[2].data_ptr(), p.bp = biases[3].data_ptr();
  }
  std::vector<Tensor> weights;
  if (packed.empty()) {
    weights = dense_weights(given.weights);
    p.weights = pointers_to(weights);
  } else {
    p.packed = pointers_to(check, packed, given.x, p.shape);
  }
  const Tensor x = in_fp32_on_cpu(given.x);
  const Rows rows = rows_of(x);
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
  const ScalarType dtype = given.x.scalar_type();
  return {as_dtype(y, dtype), as_dtype(r, dtype), index};
}

Tensor inception(
    Tensor x, Tensor w_in, Optional b_in, Tensor w3, Optional b3, Tensor w5, Optional b5, Tensor wp,
    Optional bp, bool reduce_relu, std::vector<Tensor> packed) {
  const Arguments given{x, {&w_in, &w3, &w5, &wp}, {&b_in, &b3, &b5, &bp}};
  return std::get<0>(forward("inception", given, reduce_relu, false, packed));
}

std::tuple<Tensor, Tensor, Tensor> inception_training(
    Tensor x, Tensor w_in, Optional b_in, Tensor w3, Optional b3, Tensor w5, Optional b5, Tensor wp,
    Optional bp, bool reduce_relu) {
  const Arguments given{x, {&w_in, &w3, &w5, &wp}, {&b_in, &b3, &b5, &bp}};
  const auto [y, r, index] = forward("inception_training", given, reduce_relu, true, {});
  return {y, r, *index};
}

std::tuple<Tensor, Tensor> inception_backward(
    Tensor grad_given, Tensor given, Tensor r_given, Tensor y_given, Tensor index, Tensor w_in,
    Tensor w3, Tensor w5, Tensor wp, bool reduce_relu, bool need_x, bool need_parameters) {
  const Check check("inception_backward", given);
  InceptionBackward p{};
  p.shape = shape_of(check, given, {&w_in, &w3, &w5, &wp});
  const InceptionShape& s = p.shape;
  check.same_pixels("grad_y", grad_given, given, s.outputs());
  check.same_pixels("r", r_given, given, s.reductions());
  check.same_pixels("y", y_given, given, s.outputs());
  const Tensor dense_index = googlenet_fast::dense_index(check, index, given);
  const Tensor grad_y = in_fp32_on_cpu(grad_given), x = in_fp32_on_cpu(given);
  const Tensor r = in_fp32_on_cpu(r_given), y = in_fp32_on_cpu(y_given);
  const Rows grad_rows = rows_of(grad_y), x_rows = rows_of(x), r_rows = rows_of(r);
  const Rows y_rows = rows_of(y);
  const auto weights = dense_weights({&w_in, &w3, &w5, &wp});
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
  m.impl("inception_training", TORCH_BOX(&googlenet_fast::inception_training));
  m.impl("inception_backward", TORCH_BOX(&googlenet_fast::inception_backward));
}

// Convolutions and the Inception block, on CPUs. Weights are (outputs, taps, taps, inputs).

#include "../../csrc/conv_bias_relu.h"
#include "../../csrc/fingerprint.h"
#include "../../csrc/inception.h"
#include "arguments.h"

namespace googlenet_fast {
namespace {

py::dtype single() { return py::dtype::of<float>(); }

const void* filter(
    const Check& check, const char* name, const Array& w, int64_t outputs, int64_t inputs,
    int64_t taps) {
  return check.dense(name, w, single(), {outputs, taps, taps, inputs});
}

int64_t taps_of(const Check& check, const char* name, const Array& w) {
  check.that(w.ndim() == 4, name, "be (outputs, taps, taps, inputs)");
  return w.shape(1);
}

int64_t count_packed(int64_t h, int64_t w, int64_t outputs, int64_t inputs, int64_t taps) {
  return packed_size({h, w, outputs, inputs, static_cast<int>(taps), nullptr, nullptr});
}

ConvShape conv_shape(const Check& check, const Array& x, const Array& weight) {
  const int64_t taps = taps_of(check, "weight", weight);
  check.that(taps == 1 || taps == 3 || taps == 5 || taps == 7, "weight", "be 1x1, 3x3, 5x5 or 7x7");
  return {x.shape(0), x.shape(1), x.shape(2), x.shape(3), weight.shape(0), static_cast<int>(taps)};
}

Sizes output_sizes(const ConvShape& s) {
  const int64_t stride = s.taps == 7 ? 2 : 1;
  return {s.images, (s.height + stride - 1) / stride, (s.width + stride - 1) / stride, s.outputs};
}

// With `packed`, the weight gives the shape alone.
void conv_bias_relu(Array x, Array weight, Optional bias, bool relu, Array y, Optional packed) {
  const Check check("conv_bias_relu", "x", x, OnCpu::kFloat32);
  ConvBiasRelu p{};
  p.shape = conv_shape(check, x, weight);
  const ConvShape& s = p.shape;
  p.x = check.read("x", x, s.channels);
  p.weight = filter(check, "weight", weight, s.outputs, s.channels, s.taps);
  if (packed.has_value()) {
    const int64_t size = count_packed(s.height, s.width, s.outputs, s.channels, s.taps);
    p.packed = check.dense("packed", *packed, single(), {size});
    p.weight = nullptr;
  }
  if (bias.has_value()) p.bias = check.values("bias", *bias, {s.outputs});
  p.relu = relu;
  p.y = check.write("y", y, output_sizes(s));
  run(check.dtype(), p);
}

// grads: the weight's and the bias's, end to end. No y: there was no ReLU.
void conv_bias_relu_backward(
    Array grad_y, Array x, Optional y, Array weight, Optional grad_x, Optional grads) {
  const Check check("conv_bias_relu_backward", "x", x, OnCpu::kFloat32);
  ConvBiasReluBackward p{};
  p.shape = conv_shape(check, x, weight);
  const ConvShape& s = p.shape;
  p.x = check.read("x", x, s.channels);
  p.weight = filter(check, "weight", weight, s.outputs, s.channels, s.taps);
  p.grad_y = check.read("grad_y", grad_y, output_sizes(s));
  if (y.has_value()) p.y = check.read("y", *y, output_sizes(s));
  if (grad_x.has_value()) p.grad_x = check.write("grad_x", *grad_x, s.channels);
  if (grads.has_value()) p.grads = check.values("grads", *grads, {weight.size() + s.outputs}, true);
  run(check.dtype(), p);
}

Array pack_weight(Array weight, int64_t height, int64_t width) {
  const Check check("pack_weight", "weight", weight);
  const int64_t taps = taps_of(check, "weight", weight);
  const int64_t outputs = weight.shape(0), inputs = weight.shape(3);
  PackWeight p{height, width, outputs, inputs, static_cast<int>(taps), nullptr, nullptr};
  p.weight = filter(check, "weight", weight, outputs, inputs, taps);
  py::array_t<float> packed(packed_size(p));
  p.packed = packed.mutable_data();
  run(check.dtype(), p);
  return packed;
}

// `weights`: w_in, w3, w5 and wp.
InceptionShape inception_shape(const Check& check, const Array& x, const Arrays& weights) {
  check.one_each("weights", weights.size(), 4);
  for (const Array& weight : weights) taps_of(check, "weights", weight);
  const Array &w_in = weights[0], &w3 = weights[1], &w5 = weights[2], &wp = weights[3];
  InceptionShape s{};
  s.images = x.shape(0), s.height = x.shape(1), s.width = x.shape(2), s.channels = x.shape(3);
  s.c3_reduce = w3.shape(3), s.c3 = w3.shape(0), s.taps3 = static_cast<int>(w3.shape(1));
  s.c5_reduce = w5.shape(3), s.c5 = w5.shape(0), s.taps5 = static_cast<int>(w5.shape(1));
  s.c1 = w_in.shape(0) - s.reductions(), s.project = wp.shape(0);
  check.that(s.c1 > 0 && s.project > 0, "weights", "give outputs to branches 1 and 4");
  for (const int taps : {s.taps3, s.taps5})
    check.that(taps == 3 || taps == 5, "weights", "be 3x3 or 5x5 in branches 2 and 3");
  return s;
}

InceptionWeights inception_weights(
    const Check& check, const InceptionShape& s, const Arrays& weights) {
  return {
      filter(check, "w_in", weights[0], s.c1 + s.reductions(), s.channels, 1),
      filter(check, "w3", weights[1], s.c3, s.c3_reduce, s.taps3),
      filter(check, "w5", weights[2], s.c5, s.c5_reduce, s.taps5),
      filter(check, "wp", weights[3], s.project, s.channels, 1)};
}

PackedWeights packed_weights(const Check& check, const InceptionShape& s, const Arrays& packed) {
  check.one_each("packed", packed.size(), 5);
  const auto data = [&](int i, int64_t outputs, int64_t inputs, int64_t taps) -> const void* {
    const int64_t size = count_packed(s.height, s.width, outputs, inputs, taps);
    return check.dense("packed", packed[i], single(), {size});
  };
  return {
      data(0, s.c1, s.channels, 1), data(1, s.reductions(), s.channels, 1),
      data(2, s.c3, s.c3_reduce, s.taps3), data(3, s.c5, s.c5_reduce, s.taps5),
      data(4, s.project, s.channels, 1)};
}

// `biases`: four or none. `r`: the reductions; `packed`: pack_weight of w_in's two parts and the
// others, or none.
void inception(
    Array x, Arrays weights, Arrays biases, bool reduce_relu, Array r, Array y, Optional index,
    Arrays packed) {
  const Check check("inception", "x", x, OnCpu::kFloat32);
  Inception p{};
  p.shape = inception_shape(check, x, weights);
  const InceptionShape& s = p.shape;
  p.weights = inception_weights(check, s, weights);
  if (!packed.empty()) {
    p.packed = packed_weights(check, s, packed);
    p.weights = {};
  }
  if (!biases.empty()) {
    check.one_each("biases", biases.size(), 4);
    p.b_in = check.values("b_in", biases[0], {s.c1 + s.reductions()});
    p.b3 = check.values("b3", biases[1], {s.c3});
    p.b5 = check.values("b5", biases[2], {s.c5});
    p.bp = check.values("bp", biases[3], {s.project});
  }
  p.reduce_relu = reduce_relu;
  p.x = check.read("x", x, s.channels);
  p.r = check.write("r", r, s.reductions());
  p.y = check.write("y", y, s.outputs());
  if (index.has_value()) p.index = check.index("index", *index, sizes_of(x), true);
  run(check.dtype(), p);
}

// grads: weight and bias of each of the four, end to end.
void inception_backward(
    Array grad_y, Array x, Array r, Array y, Array index, Arrays weights, bool reduce_relu,
    Optional grad_x, Optional grads) {
  const Check check("inception_backward", "x", x, OnCpu::kFloat32);
  InceptionBackward p{};
  p.shape = inception_shape(check, x, weights);
  const InceptionShape& s = p.shape;
  p.weights = inception_weights(check, s, weights);
  p.reduce_relu = reduce_relu;
  p.grad_y = check.read("grad_y", grad_y, s.outputs());
  p.x = check.read("x", x, s.channels);
  p.r = check.read("r", r, s.reductions());
  p.y = check.read("y", y, s.outputs());
  p.index = check.index("index", index, sizes_of(x));
  if (grad_x.has_value()) p.grad_x = check.write("grad_x", *grad_x, s.channels);
  int64_t count = 0;
  for (const Array& weight : weights) count += weight.size() + weight.shape(0);
  if (grads.has_value()) p.grads = check.values("grads", *grads, {count}, true);
  run(check.dtype(), p);
}

uint64_t fingerprint(Arrays arrays) {
  std::vector<Bytes> bytes;
  for (const Array& a : arrays) {
    if ((a.flags() & Array::c_style) == 0)
      throw py::value_error("fingerprint: arrays must be contiguous");
    bytes.push_back({a.data(), a.nbytes()});
  }
  uint64_t digest = 0;
  run_cpu(Dtype::kFloat32, Fingerprint{bytes.data(), static_cast<int64_t>(bytes.size()), &digest});
  return digest;
}

}  // namespace

void bind_convolutions(py::module_& m) {
  using py::arg, py::none;
  m.def(
      "conv_bias_relu", &conv_bias_relu, arg("x"), arg("weight"), arg("bias").none(), arg("relu"),
      arg("y"), arg("packed") = none());
  m.def(
      "conv_bias_relu_backward", &conv_bias_relu_backward, arg("grad_y"), arg("x"), arg("y").none(),
      arg("weight"), arg("grad_x") = none(), arg("grads") = none());
  m.def("pack_weight", &pack_weight, arg("weight"), arg("height"), arg("width"));
  m.def(
      "inception", &inception, arg("x"), arg("weights"), arg("biases"), arg("reduce_relu"),
      arg("r"), arg("y"), arg("index") = none(), arg("packed") = Arrays());
  m.def(
      "inception_backward", &inception_backward, arg("grad_y"), arg("x"), arg("r"), arg("y"),
      arg("index"), arg("weights"), arg("reduce_relu"), arg("grad_x") = none(),
      arg("grads") = none());
  m.def("fingerprint", &fingerprint, arg("arrays"));
}

}  // namespace googlenet_fast

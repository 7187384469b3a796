#include "../../csrc/bias_relu_pool.h"
#include "../../csrc/max_pool.h"
#include "arguments.h"

namespace googlenet_fast {
namespace {

template <typename Kernel>
void pool(const Check& check, Kernel& p, const Array& x, const Array& y, const Optional& index) {
  const Sizes sizes{x.shape(0), y.shape(1), y.shape(2), x.shape(3)};
  p.x = check.read("x", x, x.shape(3));
  p.y = check.write("y", y, sizes);
  if (index.has_value()) p.index = check.index("index", *index, sizes, true);
  run(check.dtype(), p);
}

void max_pool(Array x, Array y, Optional index) {
  const Check check("max_pool", "x", x, OnCpu::kFloat32);
  check.that(sizes_of(x) == sizes_of(y), "y", "be as large as x");
  MaxPool p{};
  p.shape = pool_shape(check, x, y);
  pool(check, p, x, y, index);
}

void bias_relu_pool(Array x, Optional bias, bool relu, Array y, Optional index) {
  const Check check("bias_relu_pool", "x", x, OnCpu::kFloat32);
  BiasReluPool p{};
  p.shape = strided_pool(check, x, y);
  if (bias.has_value()) p.bias = check.values("bias", *bias, {x.shape(3)});
  p.relu = relu;
  pool(check, p, x, y, index);
}

void max_pool_backward(Array grad_y, Array index, Optional add_to, Array grad_x) {
  const Check check("max_pool_backward", "grad_y", grad_y, OnCpu::kFloat32);
  const int64_t channels = grad_y.shape(3);
  MaxPoolBackward p{};
  p.shape = pool_shape(check, grad_y, grad_y);
  p.grad_y = check.read("grad_y", grad_y, channels);
  p.index = check.index("index", index, sizes_of(grad_y));
  if (add_to.has_value()) p.add_to = check.read("add_to", *add_to, channels);
  p.grad_x = check.write("grad_x", grad_x, channels);
  run(check.dtype(), p);
}

void bias_relu_pool_backward(
    Array grad_y, Array index, Array grad_x, Optional partial, Optional grad_bias) {
  const Check check("bias_relu_pool_backward", "grad_x", grad_x, OnCpu::kFloat32);
  const int64_t channels = grad_x.shape(3);
  BiasReluPoolBackward p{};
  p.shape = strided_pool(check, grad_x, grad_y);
  const Sizes sizes{grad_x.shape(0), grad_y.shape(1), grad_y.shape(2), channels};
  p.grad_y = check.read("grad_y", grad_y, sizes);
  p.index = check.index("index", index, sizes);
  p.grad_x = check.write("grad_x", grad_x, channels);
  check.that(partial.has_value() == grad_bias.has_value(), "partial", "be given with grad_bias");
  if (grad_bias.has_value()) {
    p.partial = check.values("partial", *partial, {partial_size(check.pixels(), channels)}, true);
    p.grad_bias = check.values("grad_bias", *grad_bias, {channels}, true);
  }
  run(check.dtype(), p);
}

}  // namespace

void bind_pools(py::module_& m) {
  using py::arg, py::none;
  m.def("max_pool", &max_pool, arg("x"), arg("y"), arg("index") = none());
  m.def(
      "max_pool_backward", &max_pool_backward, arg("grad_y"), arg("index"), arg("add_to").none(),
      arg("grad_x"));
  m.def(
      "bias_relu_pool", &bias_relu_pool, arg("x"), arg("bias").none(), arg("relu"), arg("y"),
      arg("index") = none());
  m.def(
      "bias_relu_pool_backward", &bias_relu_pool_backward, arg("grad_y"), arg("index"),
      arg("grad_x"), arg("partial") = none(), arg("grad_bias") = none());
}

}  // namespace googlenet_fast

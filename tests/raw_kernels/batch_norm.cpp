// Batch norm, as four passes with concatenation and as three with a pool. Values per channel are
// of all branches, end to end; statistics and sums are (2, channels).

#include "../../csrc/bn_relu_concat.h"
#include "../../csrc/bn_relu_pool.h"
#include "arguments.h"

namespace googlenet_fast {
namespace {

// The value at that place.
const void* at(const Check& check, const void* values, int64_t index) {
  return static_cast<const char*>(values) + index * check.sums().itemsize();
}

template <typename Kernel>
class Norm {
 public:
  Kernel p{};

  Norm(const char* kernel, const Arrays& branches) : check_(check_of(kernel, branches)) {
    for (const Array& x : branches) {
      NormBranch& branch = p.branches[p.count++];
      branch.channels = x.ndim() == 4 ? x.shape(3) : 0;
      branch.begin = p.columns;
      branch.x = check_.read("branches", x, branch.channels);
      p.columns += branch.channels;
    }
    p.rows = check_.pixels();
  }

  void normalize(const Array& statistics, const Array& weight, const Array& bias, double eps) {
    const void* const pair = check_.values("statistics", statistics, {2, p.columns});
    const void* const weights = check_.values("weight", weight, {p.columns});
    const void* const biases = check_.values("bias", bias, {p.columns});
    p.eps = eps;
    each([&](NormBranch& branch, int) {
      branch.mean = at(check_, pair, branch.begin);
      branch.variance = at(check_, pair, p.columns + branch.begin);
      branch.weight = at(check_, weights, branch.begin);
      branch.bias = at(check_, biases, branch.begin);
    });
  }

  void grads(const Arrays& grads) {
    check_.one_each("grads", grads.size(), p.count);
    each([&](NormBranch& b, int i) { b.grad = check_.read("grads", grads[i], b.channels); });
  }

  void outs(const Arrays& outs) {
    check_.one_each("outs", outs.size(), p.count);
    each([&](NormBranch& b, int i) { b.out = check_.write("outs", outs[i], b.channels); });
  }

  void take_sums(const Array& sums, double total) {
    const void* const pair = check_.values("sums", sums, {2, p.columns});
    check_.that(total > 0, "total", "be positive");
    p.total = total;
    each([&](NormBranch& branch, int) {
      branch.grad_bias = at(check_, pair, branch.begin);
      branch.grad_weight = at(check_, pair, p.columns + branch.begin);
    });
  }

  void reduce(const Array& partial, const char* name, const Array& sums, void*& result) {
    const Sizes sizes{partial_size(p.rows, p.columns, 2)};
    p.partial = check_.values("partial", partial, sizes, true);
    result = check_.values(name, sums, {2, p.columns}, true);
    run();
  }

  void run() { googlenet_fast::run(check_.dtype(), p); }

 private:
  Check check_;

  static Check check_of(const char* kernel, const Arrays& branches) {
    if (branches.empty() || branches.size() > kMaxBranches)
      throw py::value_error(std::string(kernel) + ": branches must be 1 to 4 branches");
    return {kernel, "branches", branches[0], OnCpu::kAll};
  }

  template <typename F>
  void each(const F& function) {
    for (int i = 0; i < p.count; ++i) function(p.branches[i], i);
  }
};

void bn_relu_concat_statistics(Arrays branches, Array partial, Array statistics) {
  Norm<BatchNormStatistics> norm("bn_relu_concat_statistics", branches);
  norm.reduce(partial, "statistics", statistics, norm.p.statistics);
}

void bn_relu_concat(
    Arrays branches, Array statistics, Array weight, Array bias, double eps, Arrays outs) {
  Norm<BatchNormRelu> norm("bn_relu_concat", branches);
  norm.normalize(statistics, weight, bias, eps);
  norm.outs(outs);
  norm.run();
}

void bn_relu_concat_sums(
    Arrays grads, Arrays branches, Array statistics, Array weight, Array bias, double eps,
    Array partial, Array sums) {
  Norm<BatchNormSums> norm("bn_relu_concat_sums", branches);
  norm.normalize(statistics, weight, bias, eps);
  norm.grads(grads);
  norm.reduce(partial, "sums", sums, norm.p.sums);
}

void bn_relu_concat_backward(
    Arrays grads, Arrays branches, Array statistics, Array weight, Array bias, double eps,
    Array sums, double total, Arrays outs) {
  Norm<BatchNormBackward> norm("bn_relu_concat_backward", branches);
  norm.normalize(statistics, weight, bias, eps);
  norm.grads(grads);
  norm.take_sums(sums, total);
  norm.outs(outs);
  norm.run();
}

// What the three passes with a pool share; `y`: the pooled activation, or its gradient.
template <typename Kernel>
Kernel norm_pool(
    const Check& check, const Array& x, const Array& statistics, double eps, const Array& y) {
  const int64_t channels = x.shape(3);
  Kernel p{};
  p.shape = strided_pool(check, x, y);
  p.x = check.read("x", x, channels);
  const void* const pair = check.values("statistics", statistics, {2, channels});
  p.mean = pair;
  p.variance = at(check, pair, channels);
  p.eps = eps;
  return p;
}

void bn_relu_pool(
    Array x, Array statistics, Array weight, Array bias, double eps, Array y, Array index) {
  const Check check("bn_relu_pool", "x", x, OnCpu::kAll);
  auto p = norm_pool<BnReluPool>(check, x, statistics, eps, y);
  const Sizes sizes{x.shape(0), y.shape(1), y.shape(2), x.shape(3)};
  p.weight = check.values("weight", weight, {x.shape(3)});
  p.bias = check.values("bias", bias, {x.shape(3)});
  p.y = check.write("y", y, sizes);
  p.index = check.index("index", index, sizes, true);
  run(check.dtype(), p);
}

template <typename Kernel>
Kernel norm_pool_gradient(
    const Check& check, const Array& grad_y, const Array& index, const Array& x,
    const Array& statistics, double eps) {
  auto p = norm_pool<Kernel>(check, x, statistics, eps, grad_y);
  const Sizes sizes{x.shape(0), grad_y.shape(1), grad_y.shape(2), x.shape(3)};
  p.grad_y = check.read("grad_y", grad_y, sizes);
  p.index = check.index("index", index, sizes);
  return p;
}

void bn_relu_pool_sums(
    Array grad_y, Array index, Array x, Array statistics, double eps, Array partial, Array sums) {
  const Check check("bn_relu_pool_sums", "x", x, OnCpu::kAll);
  auto p = norm_pool_gradient<BnReluPoolSums>(check, grad_y, index, x, statistics, eps);
  const int64_t channels = x.shape(3);
  p.partial = check.values("partial", partial, {partial_size(check.pixels(), channels, 2)}, true);
  p.sums = check.values("sums", sums, {2, channels}, true);
  run(check.dtype(), p);
}

void bn_relu_pool_backward(
    Array grad_y, Array index, Array x, Array statistics, Array weight, double eps, Array sums,
    double total, Array grad_x) {
  const Check check("bn_relu_pool_backward", "x", x, OnCpu::kAll);
  auto p = norm_pool_gradient<BnReluPoolBackward>(check, grad_y, index, x, statistics, eps);
  const int64_t channels = x.shape(3);
  p.weight = check.values("weight", weight, {channels});
  const void* const pair = check.values("sums", sums, {2, channels});
  check.that(total > 0, "total", "be positive");
  p.grad_bias = pair;
  p.grad_weight = at(check, pair, channels);
  p.total = total;
  p.grad_x = check.write("grad_x", grad_x, channels);
  run(check.dtype(), p);
}

}  // namespace

void bind_batch_norm(py::module_& m) {
  using py::arg;
  m.def(
      "bn_relu_concat_statistics", &bn_relu_concat_statistics, arg("branches"), arg("partial"),
      arg("statistics"));
  m.def(
      "bn_relu_concat", &bn_relu_concat, arg("branches"), arg("statistics"), arg("weight"),
      arg("bias"), arg("eps"), arg("outs"));
  m.def(
      "bn_relu_concat_sums", &bn_relu_concat_sums, arg("grads"), arg("branches"), arg("statistics"),
      arg("weight"), arg("bias"), arg("eps"), arg("partial"), arg("sums"));
  m.def(
      "bn_relu_concat_backward", &bn_relu_concat_backward, arg("grads"), arg("branches"),
      arg("statistics"), arg("weight"), arg("bias"), arg("eps"), arg("sums"), arg("total"),
      arg("outs"));
  m.def(
      "bn_relu_pool", &bn_relu_pool, arg("x"), arg("statistics"), arg("weight"), arg("bias"),
      arg("eps"), arg("y"), arg("index"));
  m.def(
      "bn_relu_pool_sums", &bn_relu_pool_sums, arg("grad_y"), arg("index"), arg("x"),
      arg("statistics"), arg("eps"), arg("partial"), arg("sums"));
  m.def(
      "bn_relu_pool_backward", &bn_relu_pool_backward, arg("grad_y"), arg("index"), arg("x"),
      arg("statistics"), arg("weight"), arg("eps"), arg("sums"), arg("total"), arg("grad_x"));
}

}  // namespace googlenet_fast

#include "../bn_relu_concat.h"

#include <cmath>

#include "../bindings.h"

namespace googlenet_fast {
namespace {

using Tensors = std::vector<Tensor>;

// Branches for the kernels, and what they point to.
template <typename Parameters>
struct Norm {
  Parameters p{};
  Tensors keep;

  // `others`: the op's other lists, one of which has a tensor.
  Norm(const char* op, const Tensors& branches, std::initializer_list<const Tensors*> others = {})
      : check_(op, any_of(branches, others)) {
    check_.branches("branches", branches.size(), kMaxBranches);
    check_.image("branches", branches[0], kFloats);
    like_ = branches[0];
    for (const Tensor& x : branches) {
      check_.same_pixels("branches", x, like_, kAny);
      NormBranch& branch = p.branches[p.count++];
      branch.x = rows(x);
      branch.channels = x.size(1);
      branch.begin = p.columns;
      p.columns += x.size(1);
    }
    p.rows = like_.size(0) * like_.size(2) * like_.size(3);
  }

  void normalize(
      const Tensors& statistics, const Tensors& weights, const Tensors& biases, double eps) {
    check_count("statistics", statistics);
    check_count("weights", weights);
    check_count("biases", biases);
    for (int i = 0; i < p.count; ++i) {
      NormBranch& branch = p.branches[i];
      std::tie(branch.mean, branch.variance) = pair("statistics", statistics[i], branch.channels);
      branch.weight = values("weights", weights[i], branch.channels);
      branch.bias = values("biases", biases[i], branch.channels);
    }
    p.eps = eps;
  }

  void take_grads(const Tensors& grads) {
    check_count("grads", grads);
    for (int i = 0; i < p.count; ++i) {
      check_.same_pixels("grads", grads[i], like_, p.branches[i].channels);
      p.branches[i].grad = rows(grads[i]);
    }
  }

  // Sums to be divided by `total`: the rows of all processes, or 1 where they are divided already.
  void take_sums(const Tensors& sums, double total) {
    check_count("sums", sums);
    check_.that(total > 0 && std::isfinite(total), "total", "be positive and finite");
    p.total = total;
    for (int i = 0; i < p.count; ++i) {
      NormBranch& branch = p.branches[i];
      std::tie(branch.grad_bias, branch.grad_weight) = pair("sums", sums[i], branch.channels);
    }
  }

  // One result of all columns, or one for each branch.
  Tensors allocate(bool concatenate) {
    Tensors results;
    if (concatenate) results.push_back(empty_channels_last(like_, p.columns));
    for (int i = 0; i < p.count; ++i) {
      NormBranch& branch = p.branches[i];
      if (!concatenate) results.push_back(empty_channels_last(like_, branch.channels));
      branch.out = matrix_of(results.back());
      const int64_t bytes = branch.begin * like_.element_size();
      if (concatenate) branch.out.data = static_cast<char*>(branch.out.data) + bytes;
    }
    return results;
  }

  // Sums of two kinds over all rows.
  Tensor reduce(void*& result) {
    keep.push_back(empty_sums(like_, {partial_size(p.rows, p.columns, 2)}));
    p.partial = keep.back().data_ptr();
    const Tensor sums = empty_sums(like_, {2, p.columns});
    result = sums.data_ptr();
    run();
    return sums;
  }

  void run() { googlenet_fast::run(like_, p); }

 private:
  Check check_;
  Tensor like_;

  static const Tensor& any_of(
      const Tensors& branches, std::initializer_list<const Tensors*> others) {
    if (!branches.empty()) return branches[0];
    return (*std::ranges::find_if(others, [](const Tensors* list) { return !list->empty(); }))
        ->at(0);
  }

  void check_count(const char* name, const Tensors& tensors) const {
    check_.one_per_branch(name, tensors.size(), p.count);
  }

  Matrix rows(const Tensor& x) {
    const Rows found = rows_of(x);
    keep.push_back(found.tensor);
    return found.matrix;
  }

  const void* values(const char* name, const Tensor& tensor, int64_t channels) {
    check_.tensor(name, tensor, kFloats, {channels});
    keep.push_back(dense(tensor, accumulator_of(like_)));
    return keep.back().data_ptr();
  }

  // The rows of a tensor of (2, channels), which need not follow each other.
  std::pair<const void*, const void*> pair(
      const char* name, const Tensor& tensor, int64_t channels) {
    const ScalarType accumulator[] = {accumulator_of(like_)};
    check_.tensor(name, tensor, accumulator, {2, channels});
    if (channels == 0) return {nullptr, nullptr};
    keep.push_back(tensor.stride(1) == 1 ? tensor : torch::stable::contiguous(tensor));
    const char* const first = static_cast<const char*>(keep.back().data_ptr());
    return {first, first + keep.back().stride(0) * keep.back().element_size()};
  }
};

Tensor statistics(Tensors branches) {
  Norm<BatchNormStatistics> norm("bn_relu_concat_statistics", branches);
  return norm.reduce(norm.p.statistics);
}

Tensors forward(
    Tensors branches, Tensors statistics, Tensors weights, Tensors biases, double eps,
    bool concatenate) {
  Norm<BatchNormRelu> norm("bn_relu_concat", branches, {&statistics, &weights, &biases});
  norm.normalize(statistics, weights, biases, eps);
  const Tensors results = norm.allocate(concatenate);
  norm.run();
  return results;
}

Tensor sums(
    Tensors grads, Tensors branches, Tensors statistics, Tensors weights, Tensors biases,
    double eps) {
  Norm<BatchNormSums> norm(
      "bn_relu_concat_sums", branches, {&grads, &statistics, &weights, &biases});
  norm.normalize(statistics, weights, biases, eps);
  norm.take_grads(grads);
  return norm.reduce(norm.p.sums);
}

Tensors backward(
    Tensors grads, Tensors branches, Tensors statistics, Tensors weights, Tensors biases,
    double eps, Tensors sums, double total, bool concatenate) {
  Norm<BatchNormBackward> norm(
      "bn_relu_concat_backward", branches, {&grads, &statistics, &weights, &biases, &sums});
  norm.normalize(statistics, weights, biases, eps);
  norm.take_grads(grads);
  norm.take_sums(sums, total);
  const Tensors results = norm.allocate(concatenate);
  norm.run();
  return results;
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("bn_relu_concat_statistics", TORCH_BOX(&googlenet_fast::statistics));
  m.impl("bn_relu_concat", TORCH_BOX(&googlenet_fast::forward));
  m.impl("bn_relu_concat_sums", TORCH_BOX(&googlenet_fast::sums));
  m.impl("bn_relu_concat_backward", TORCH_BOX(&googlenet_fast::backward));
}

REGISTER_CUDA(m) {
  m.impl("bn_relu_concat_statistics", TORCH_BOX(&googlenet_fast::statistics));
  m.impl("bn_relu_concat", TORCH_BOX(&googlenet_fast::forward));
  m.impl("bn_relu_concat_sums", TORCH_BOX(&googlenet_fast::sums));
  m.impl("bn_relu_concat_backward", TORCH_BOX(&googlenet_fast::backward));
}

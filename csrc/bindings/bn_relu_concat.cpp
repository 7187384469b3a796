#include "../bn_relu_concat.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

using Tensors = std::vector<Tensor>;

// Branches for the kernels, and what they point to.
template <typename Parameters>
struct Norm {
  Parameters p{};
  Tensors keep;

  Norm(const char* op, const Tensors& branches) : op_(op) {
    STD_TORCH_CHECK(
        !branches.empty() && branches.size() <= kMaxBranches, op, ": takes 1 to ", kMaxBranches,
        " branches, not ", branches.size());
    for (const Tensor& x : branches) {
      check_same_pixels(op, x, branches[0]);
      NormBranch& branch = p.branches[p.count++];
      branch.x = rows(x);
      branch.channels = x.size(1);
      branch.begin = p.columns;
      p.columns += x.size(1);
    }
    p.rows = branches[0].size(0) * branches[0].size(2) * branches[0].size(3);
    like_ = branches[0];
  }

  void normalize(
      const Tensors& statistics, const Tensors& weights, const Tensors& biases, double eps) {
    check_count(statistics);
    check_count(weights);
    check_count(biases);
    for (int i = 0; i < p.count; ++i) {
      NormBranch& branch = p.branches[i];
      std::tie(branch.mean, branch.variance) = pair(statistics[i], branch.channels);
      branch.weight = values(weights[i], branch.channels);
      branch.bias = values(biases[i], branch.channels);
    }
    p.eps = eps;
  }

  void take_grads(const Tensors& grads) {
    check_count(grads);
    for (int i = 0; i < p.count; ++i) {
      check_same_pixels(op_, grads[i], like_);
      STD_TORCH_CHECK(
          grads[i].size(1) == p.branches[i].channels, op_, ": a gradient is not of its branch's size");
      p.branches[i].grad = rows(grads[i]);
    }
  }

  void take_sums(const Tensors& sums) {
    check_count(sums);
    for (int i = 0; i < p.count; ++i) {
      NormBranch& branch = p.branches[i];
      std::tie(branch.grad_bias, branch.grad_weight) = pair(sums[i], branch.channels);
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
    keep.push_back(empty_sums(like_, {bias_partials(p.rows), 2, p.columns}));
    p.partial = keep.back().data_ptr();
    const Tensor sums = empty_sums(like_, {2, p.columns});
    result = sums.data_ptr();
    run();
    return sums;
  }

  void run() { googlenet_fast::run(like_, p); }

 private:
  const char* op_;
  Tensor like_;

  void check_count(const Tensors& tensors) const {
    STD_TORCH_CHECK(
        static_cast<int>(tensors.size()) == p.count, op_, ": give everything for each branch");
  }

  Matrix rows(const Tensor& x) {
    const Rows found = rows_of(x);
    keep.push_back(found.tensor);
    return found.matrix;
  }

  const void* values(const Tensor& tensor, int64_t channels) {
    STD_TORCH_CHECK(
        tensor.dim() == 1 && tensor.size(0) == channels, op_,
        ": weights and biases must have one value per channel");
    STD_TORCH_CHECK(tensor.device() == like_.device(), op_, ": weights on another device");
    keep.push_back(dense(tensor, accumulator_of(like_)));
    return keep.back().data_ptr();
  }

  // The rows of a tensor of (2, channels), which need not follow each other.
  std::pair<const void*, const void*> pair(const Tensor& tensor, int64_t channels) {
    STD_TORCH_CHECK(
        tensor.dim() == 2 && tensor.size(0) == 2 && tensor.size(1) == channels &&
            (tensor.stride(1) == 1 || channels <= 1) &&
            tensor.scalar_type() == accumulator_of(like_) && tensor.device() == like_.device(),
        op_, ": statistics and sums must be (2, channels) of fp32 (fp64 for fp64), on the device");
    const char* const first = static_cast<const char*>(tensor.data_ptr());
    return {first, first + tensor.stride(0) * tensor.element_size()};
  }
};

Tensor statistics(Tensors branches) {
  Norm<BatchNormStatistics> norm("bn_relu_concat_statistics", branches);
  return norm.reduce(norm.p.statistics);
}

Tensors forward(
    Tensors branches, Tensors statistics, Tensors weights, Tensors biases, double eps,
    bool concatenate) {
  Norm<BatchNormRelu> norm("bn_relu_concat", branches);
  norm.normalize(statistics, weights, biases, eps);
  const Tensors results = norm.allocate(concatenate);
  norm.run();
  return results;
}

Tensor sums(
    Tensors grads, Tensors branches, Tensors statistics, Tensors weights, Tensors biases,
    double eps) {
  Norm<BatchNormSums> norm("bn_relu_concat_sums", branches);
  norm.normalize(statistics, weights, biases, eps);
  norm.take_grads(grads);
  return norm.reduce(norm.p.sums);
}

Tensors backward(
    Tensors grads, Tensors branches, Tensors statistics, Tensors weights, Tensors biases,
    double eps, Tensors sums, double total, bool concatenate) {
  Norm<BatchNormBackward> norm("bn_relu_concat_backward", branches);
  norm.normalize(statistics, weights, biases, eps);
  norm.take_grads(grads);
  norm.take_sums(sums);
  norm.p.total = total;
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

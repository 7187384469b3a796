// The Inception block: each branch writes its columns of the output.

#include "../inception.h"

#include <algorithm>

#include "convolution.h"
#include "relu_backward.h"
#include "scratch.h"
#include "stacked_1x1.h"

namespace googlenet_fast {
namespace {

using cpu::Filter;
using cpu::MatrixView;
using cpu::Size;
using cpu::view_of;

const float* floats(const void* data) { return static_cast<const float*>(data); }

struct Filters {
  Filter in, w3, w5, project;

  Filters(const InceptionShape& s, const InceptionWeights& w)
      : in{floats(w.w_in), s.c1 + s.reductions(), 1, s.channels},
        w3{floats(w.w3), s.c3, s.taps3, s.c3_reduce}, w5{floats(w.w5), s.c5, s.taps5, s.c5_reduce},
        project{floats(w.wp), s.project, 1, s.channels} {}
};

// The four branches' columns of the output.
struct Branches {
  MatrixView b1, b3, b5, project;

  Branches(const InceptionShape& s, MatrixView y)
      : b1(y.columns(0, s.c1)), b3(y.columns(s.c1, s.c3)), b5(y.columns(s.c1 + s.c3, s.c5)),
        project(y.columns(s.c1 + s.c3 + s.c5, s.project)) {}
};

// The two reductions' columns of r.
struct Reductions {
  MatrixView r3, r5;

  Reductions(const InceptionShape& s, MatrixView r)
      : r3(r.columns(0, s.c3_reduce)), r5(r.columns(s.c3_reduce, s.c5_reduce)) {}
};

Size size_of(const InceptionShape& s) { return {s.images, s.height, s.width}; }

// Where each parameter's gradient begins in the array of all of them.
struct Gradients {
  float *w_in, *b_in, *w3, *b3, *w5, *b5, *wp, *bp;

  Gradients(const Filters& f, float* at) {
    const auto next = [&](int64_t count) { return (at += count) - count; };
    w_in = next(f.in.size()), b_in = next(f.in.outputs);
    w3 = next(f.w3.size()), b3 = next(f.w3.outputs);
    w5 = next(f.w5.size()), b5 = next(f.w5.outputs);
    wp = next(f.project.size()), bp = next(f.project.outputs);
  }
};

void weight_gradients(
    const InceptionBackward& p, const Filters& f, MatrixView masked, MatrixView grad_r,
    const Gradients& grads) {
  const Size size = size_of(p.shape);
  const Branches g(p.shape, masked);
  const MatrixView x = view_of(p.x, p.shape.channels);
  const Reductions r(p.shape, view_of(p.r, p.shape.reductions()));
  weight_gradient(size, g.b3, r.r3, f.w3.taps, grads.w3);
  weight_gradient(size, g.b5, r.r5, f.w5.taps, grads.w5);
  const cpu::WeightGrad convs[] = {
      {g.b1, grads.w_in},
      {grad_r, grads.w_in + p.shape.c1 * p.shape.channels},
      {g.project, grads.wp, true}};
  stacked_1x1_weight_gradient(size, convs, x);
}

void write_grad_x(
    const InceptionBackward& p, const Filters& f, MatrixView masked, MatrixView grad_r) {
  const InceptionShape& s = p.shape;
  const Size size = size_of(s);
  const Branches g(s, masked);
  const Filter one = f.in.rows(0, s.c1), reduce = f.in.rows(s.c1, s.reductions());
  stacked_1x1_input_gradient(
      size, {{one, g.b1}, {reduce, grad_r}}, {f.project, g.project}, p.index,
      view_of(p.grad_x, s.channels));
}

}  // namespace

void run_cpu(Dtype, const Inception& p) {
  const InceptionShape& s = p.shape;
  const Size size = size_of(s);
  Filters f(s, p.weights);
  Filter one = f.in.rows(0, s.c1), reduce = f.in.rows(s.c1, s.reductions());
  one.packed = floats(p.packed.w1), reduce.packed = floats(p.packed.reduce);
  f.w3.packed = floats(p.packed.w3), f.w5.packed = floats(p.packed.w5);
  f.project.packed = floats(p.packed.wp);
  const MatrixView x = view_of(p.x, s.channels), r = view_of(p.r, s.reductions());
  const Branches y(s, view_of(p.y, s.outputs()));
  const Reductions reduced(s, r);
  const float* const b_in = floats(p.b_in);
  const float* const b_reduce = b_in == nullptr ? nullptr : b_in + s.c1;
  const cpu::Conv1x1 convs[] = {
      {one, b_in, true, y.b1},
      {reduce, b_reduce, p.reduce_relu, r},
      {f.project, floats(p.bp), true, y.project, true}};
  stacked_1x1(size, x, convs, p.index);
  convolve(size, reduced.r3, f.w3, floats(p.b3), true, y.b3);
  convolve(size, reduced.r5, f.w5, floats(p.b5), true, y.b5);
}

void run_cpu(Dtype, const InceptionBackward& p) {
  const InceptionShape& s = p.shape;
  const Size size = size_of(s);
  const Filters f(s, p.weights);
  cpu::Scratch scratch;
  const auto take_matrix = [&](int64_t channels) {
    return MatrixView{scratch.take(size.pixels() * channels), channels, channels};
  };
  const MatrixView masked = take_matrix(s.outputs()), grad_r = take_matrix(s.reductions());
  float* const sums = scratch.take(s.outputs());
  float* const reduce_sums = scratch.take(s.reductions());
  relu_backward(size, view_of(p.grad_y, s.outputs()), view_of(p.y, s.outputs()), masked, sums);

  const Branches g(s, masked);
  const Reductions into(s, grad_r);
  const Reductions r(s, view_of(p.r, s.reductions()));
  input_gradient(size, g.b3, f.w3, p.reduce_relu ? r.r3 : MatrixView{}, into.r3);
  input_gradient(size, g.b5, f.w5, p.reduce_relu ? r.r5 : MatrixView{}, into.r5);
  if (p.grad_x.data != nullptr) write_grad_x(p, f, masked, grad_r);
  if (p.grads == nullptr) return;
  sum_pixels(size, grad_r, reduce_sums);
  const Gradients grads(f, static_cast<float*>(p.grads));
  weight_gradients(p, f, masked, grad_r, grads);
  std::copy_n(sums, s.c1, grads.b_in);
  std::copy_n(reduce_sums, s.reductions(), grads.b_in + s.c1);
  std::copy_n(sums + s.c1, s.c3, grads.b3);
  std::copy_n(sums + s.c1 + s.c3, s.c5, grads.b5);
  std::copy_n(sums + s.c1 + s.c3 + s.c5, s.project, grads.bp);
}

}  // namespace googlenet_fast

// The Inception block and its gradient. The arguments' meaning is that of googlenet_fast/ops.
#pragma once

#include "kernels.h"

namespace googlenet_fast {

// Sizes of a block; the weights w_in (c1 + c3_reduce + c5_reduce, channels), w3 (c3, 3, 3,
// c3_reduce), w5 (c5, taps5, taps5, c5_reduce) and wp (project, channels) are dense.
struct InceptionShape {
  int64_t images, height, width;
  int64_t channels;
  int64_t c1, c3_reduce, c3, c5_reduce, c5, project;
  int taps3, taps5;

  int64_t pixels() const { return images * height * width; }
  int64_t reductions() const { return c3_reduce + c5_reduce; }
  int64_t outputs() const { return c1 + c3 + c5 + project; }
};

struct InceptionWeights {
  const void *w_in, *w3, *w5, *wp;
};

// What PackWeight (conv_bias_relu.h) made of the weights of branch 1, of both reductions together,
// and of the others.
struct PackedWeights {
  const void *w1, *reduce, *w3, *w5, *wp;
};

struct Inception {
  InceptionShape shape;
  InceptionWeights weights;
  PackedWeights packed;             // all null, or the weights may be null
  const void *b_in, *b3, *b5, *bp;  // of fp32; all null without biases
  bool reduce_relu;
  Matrix x, r, y;  // r (pixels, reductions) and y (pixels, outputs) are written
  uint8_t* index;  // (pixels, channels), written; null in inference
};

struct InceptionBackward {
  InceptionShape shape;
  InceptionWeights weights;
  bool reduce_relu;
  Matrix grad_y, x, r, y;
  const uint8_t* index;
  Matrix grad_x;  // data null: not wanted
  void* grads;    // fp32: weight and bias of each of the four, end to end; null: not wanted
};

void run_cpu(Dtype dtype, const Inception& p);  // fp32 only
void run_cpu(Dtype dtype, const InceptionBackward& p);

}  // namespace googlenet_fast

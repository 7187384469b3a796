// Convolution with bias and ReLU, and its gradient: "same" padding, 1x1, 3x3 or 5x5 of stride 1, or
// 7x7 of stride 2.
#pragma once

#include "kernels.h"

namespace googlenet_fast {

struct ConvShape {
  int64_t images, height, width;  // of the input
  int64_t channels, outputs;
  int taps;
};

struct ConvBiasRelu {
  ConvShape shape;
  Matrix x;            // (pixels, channels)
  const void* weight;  // (outputs, taps, taps, channels), dense
  const void* packed;  // what PackWeight made of it, or null; then `weight` may be null
  const void* bias;    // (outputs,) of fp32, or null
  bool relu;
  Matrix y;  // (pixels of the output, outputs), written
};

// A weight packed as the forward pass reads it, for images of a size and the instruction set of
// this machine.
struct PackWeight {
  int64_t height, width;
  int64_t outputs, channels;
  int taps;
  const void* weight;  // (outputs, taps, taps, channels), dense
  void* packed;        // packed_size() values of fp32, written
};
int64_t packed_size(const PackWeight& p);

struct ConvBiasReluBackward {
  ConvShape shape;
  Matrix grad_y, x;
  Matrix y;  // data null: there was no ReLU
  const void* weight;
  Matrix grad_x;  // data null: not wanted
  void* grads;    // fp32: weight and bias, end to end; null: not wanted
};

void run_cpu(Dtype dtype, const ConvBiasRelu& p);  // fp32 only
void run_cpu(Dtype dtype, const ConvBiasReluBackward& p);
void run_cpu(Dtype dtype, const PackWeight& p);

}  // namespace googlenet_fast

// 7x7 convolutions of stride 2 with "same" padding on channels_last images of few channels, and
// their gradients, in fp32, on all threads. Results do not depend on the number of threads.
#pragma once

#include "convolution.h"

namespace googlenet_fast::cpu {

// Height or width of the output, given the input's.
inline int64_t halved(int64_t side) { return (side + 1) / 2; }

// y = relu(conv(x, w) + bias), or without bias (null) or ReLU. `size` is the input's.
void convolve_stem(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y);

// grad_w (outputs, 7, 7, channels) and grad_bias (outputs,) for grad_y, which counts as zero where
// `mask` (data null: none), like grad_y, is zero or less.
void stem_weight_gradient(
    const Size& size, MatrixView grad_y, MatrixView mask, MatrixView x, float* grad_w,
    float* grad_bias);

// grad_x = the input gradient for the same grad_y.
void stem_input_gradient(
    const Size& size, MatrixView grad_y, MatrixView mask, const Filter& w, MatrixView grad_x);

}  // namespace googlenet_fast::cpu

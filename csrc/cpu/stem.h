// 7x7 convolutions of stride 2 with "same" padding on channels_last images of few channels, and their
// gradients, in fp32, shared among torch's threads. Results do not depend on the number of threads.
#pragma once

#include "convolution.h"

namespace googlenet_fast::cpu {

// Height and width of the output.
inline int64_t halved(int64_t side) { return (side + 1) / 2; }

// y = relu(conv(x, w) + bias), or without bias (null) or ReLU. `size` is the input's.
void convolve_stem(const Size& size, Rows x, const Filter& w, const float* bias, bool relu, Rows y);

// grad_w (outputs, 7, 7, channels) and grad_bias (outputs,) for grad_y, which counts as zero where
// `mask` (data null: none), like grad_y, is zero or less.
void stem_weight_gradient(
    const Size& size, Rows grad_y, Rows mask, Rows x, float* grad_w, float* grad_bias);

// grad_x = the input gradient for the same.
void stem_input_gradient(const Size& size, Rows grad_y, Rows mask, const Filter& w, Rows grad_x);

}  // namespace googlenet_fast::cpu

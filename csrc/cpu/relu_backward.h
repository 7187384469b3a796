// The gradient of ReLU, and sums over pixels (gradients of biases), on all threads.
#pragma once

#include "matrix_view.h"

namespace googlenet_fast::cpu {

// masked = 0 where y is zero or less, else grad_y. sums (channels,) = its sum over the pixels.
void relu_backward(
    const Size& size, MatrixView grad_y, MatrixView y, MatrixView masked, float* sums);

// sums (channels,) = the sum of grad over the pixels.
void sum_pixels(const Size& size, MatrixView grad, float* sums);

}  // namespace googlenet_fast::cpu

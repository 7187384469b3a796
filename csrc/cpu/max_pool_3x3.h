// The 3x3/1 max pool of some pixels, on the calling thread.
#pragma once

#include "matrix_view.h"

namespace googlenet_fast::cpu {

// y (count, channels) = the max pool at the pixels from `first` on. `index` (all pixels, channels),
// if not null, gets the positions of the maxima (PoolConfig).
void max_pool_3x3(
    const Size& size, int64_t first, int64_t count, MatrixView x, MatrixView y, uint8_t* index);

// grad_x of the pixels of one row of one image, plus grad_x if `add`. Row 0 of grad_y is pixel
// `first`.
void max_pool_3x3_backward(
    const Size& size, int64_t row, MatrixView grad_y, int64_t first, const uint8_t* index,
    int64_t index_stride, bool add, MatrixView grad_x);

}  // namespace googlenet_fast::cpu

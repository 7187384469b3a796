#include "winograd_conv.h"

#include <algorithm>

#include "gemm_conv.h"
#include "partition.h"

namespace googlenet_fast::cpu::winograd_conv {
namespace {

// All images, divided into Winograd tiles.
struct Tiling : WinogradTile {
  Size size;
  int64_t down, across;

  Tiling(const Size& size, WinogradTile tile)
      : WinogradTile(tile), size(size), down(ceil_div(size.height, side())),
        across(ceil_div(size.width, side())) {}

  int64_t count() const { return size.images * down * across; }

  // Pointers to the n x n pixels of x that begin `border` pixels above and left of a tile's
  // outputs. Out of bounds they point to `padding`.
  void pixel_pointers(
      int64_t tile, int n, int border, MatrixView x, float* padding, float** pointers) const {
    const int64_t image = tile / (down * across), rest = tile % (down * across);
    const int64_t top = rest / across * side() - border, left = rest % across * side() - border;
    for (int64_t h = top; h < top + n; ++h) {
      const int64_t row = (image * size.height + h) * size.width;
      for (int64_t w = left; w < left + n; ++w) {
        const bool in_bounds = h >= 0 && h < size.height && w >= 0 && w < size.width;
        *pointers++ = in_bounds ? x.row(row + w) : padding;
      }
    }
  }

  void input_pointers(int64_t tile, MatrixView x, float* padding, float** pointers) const {
    pixel_pointers(tile, points, taps / 2, x, padding, pointers);
  }
  void output_pointers(int64_t tile, MatrixView y, float* padding, float** pointers) const {
    pixel_pointers(tile, side(), 0, y, padding, pointers);
  }
};

// The tile with the fewest multiplications per image. Reading the filters takes about as long as
// kFilterTiles tiles. The choice must not depend on the number of images, or the values of an image
// would. With more than kMaxChannels, nine points are too inexact: an error of 1e-5.
Tiling tiling_for(const Size& size, int taps, int64_t channels) {
  constexpr int64_t kFilterTiles = 2, kMaxChannels = 160;
  const auto cost = [&](const Tiling& tiling) {
    return tiling.frequencies() * (tiling.down * tiling.across + kFilterTiles);
  };
  Tiling best(size, {6, taps});
  for (const int points : {7, 8, 9}) {
    if (points == 9 && channels > kMaxChannels) continue;
    const Tiling other(size, {points, taps});
    if (cost(other) < cost(best)) best = other;
  }
  return best;
}

// The stride between the frequencies' matrices of `size` values. A transform accesses all of them
// at once: an odd number of cache lines puts them into different cache sets.
int64_t frequency_stride(int64_t size) { return (ceil_div(size, kLine) | 1) * kLine; }

// Transformed filters: a packed B (depth, columns) per frequency.
struct Filters {
  WinogradTile tile;
  const float* data;
  int64_t depth, columns;

  int64_t stride() const { return frequency_stride(gemm_config().packed_size(depth, columns)); }
  int64_t size() const { return tile.frequencies() * stride(); }
};

// Transform `lanes` filters. pack(tap, to) puts them side by side, so that u is written
// contiguously.
template <typename F>
void transform_packed(
    WinogradTile tile, int64_t lanes, bool flipped, float* u, int64_t stride, const F& pack) {
  const int64_t taps = tile.taps * tile.taps;
  Scratch scratch;
  float* const packed = scratch.take(taps * lanes);
  for (int64_t tap = 0; tap < taps; ++tap) pack(tap, packed + tap * lanes);
  winograd_config().transform_filter(tile, packed, lanes, flipped, u, stride);
}

// Depth: channels; columns: outputs.
void transform_forward(WinogradTile tile, const Filter& w, float* u) {
  const int64_t nr = gemm_config().nr, lanes = w.channels * nr, taps = w.taps * w.taps;
  const int64_t stride = Filters{tile, u, w.channels, w.outputs}.stride();
  parallel_for_each(gemm_config().panels(w.outputs), [&](int64_t j) {
    const Filter rows = w.rows(j * nr, std::min(nr, w.outputs - j * nr));
    transform_packed(tile, lanes, false, u + j * lanes, stride, [&](int64_t tap, float* to) {
      gemm_config().pack_bt(
          rows.data + tap * w.channels, taps * w.channels, w.channels, rows.outputs, to);
    });
  });
}

// Depth: outputs; columns: channels. For the input gradient: the filters are flipped.
Filters transform_backward(WinogradTile tile, const Filter& w, Scratch& scratch) {
  constexpr int64_t kOutputs = 64;  // per task
  Filters filters{tile, nullptr, w.outputs, w.channels};
  const int64_t nr = gemm_config().nr, taps = w.taps * w.taps;
  const int64_t ranges = ceil_div(w.outputs, kOutputs), stride = filters.stride();
  float* const u = scratch.take(filters.size());
  filters.data = u;
  parallel_for_each(gemm_config().panels(w.channels) * ranges, [&](int64_t i) {
    const int64_t column = i / ranges * nr, first = i % ranges * kOutputs;
    const int64_t columns = std::min(nr, w.channels - column);
    const Filter rows = w.rows(first, std::min(kOutputs, w.outputs - first));
    float* const to_u = u + column * w.outputs + first * nr;
    transform_packed(tile, rows.outputs * nr, true, to_u, stride, [&](int64_t tap, float* to) {
      gemm_config().pack_b(
          rows.data + tap * w.channels + column, taps * w.channels, rows.outputs, columns,
          rows.outputs, to);
    });
  });
  return filters;
}

// Approximate number of tiles per task, and output columns per GEMM. Transformed inputs and outputs
// should stay in L2, while the filters, which often do not fit, are streamed through once per task.
// So there are at least 2 mr tiles, and 3 mr if they take up to two and a half times L2 (measured:
// 10 % of inference at batch 64).
struct Blocking {
  int64_t tiles, columns;

  explicit Blocking(const Filters& filters)
      : columns(std::min(filters.columns, kPanels * gemm_config().nr)) {
    const int64_t bytes = filters.tile.frequencies() * (filters.depth + columns) * sizeof(float);
    const int64_t l2 = l2_cache_bytes(), mr = gemm_config().mr;
    tiles = std::max(l2 * 3 / 4 / bytes, std::clamp(l2 * 5 / 2 / bytes, 2 * mr, 3 * mr));
  }

 private:
  static constexpr int64_t kPanels = 4;
};

// v (frequencies, tiles, channels) = the transformed inputs of `count` tiles.
void transform_inputs(
    const Tiling& tiling, int64_t first, int64_t count, MatrixView x, float* zeros, float* v) {
  const int64_t stride = frequency_stride(count * x.channels);
  for (int64_t t = 0; t < count; ++t) {
    float* in[kMaxFrequencies];
    tiling.input_pointers(first + t, x, zeros, in);
    winograd_config().transform_input(
        tiling, in, x.channels, v + t * x.channels, stride, gemm_config().nr);
  }
}

// y of `count` tiles from m (frequencies, tiles, channels). Pixels out of bounds are written to
// `padding`.
void transform_outputs(
    const Tiling& tiling, int64_t first, int64_t count, const float* m, const float* bias,
    bool relu, MatrixView mask, MatrixView y, float* padding) {
  const int64_t stride = frequency_stride(count * y.channels);
  const bool nontemporal_store = use_nontemporal_store(tiling.size, y);
  const bool masked = mask.data != nullptr;
  for (int64_t t = 0; t < count; ++t) {
    float* out[kMaxFrequencies];
    float* masks[kMaxFrequencies];
    tiling.output_pointers(first + t, y, padding, out);
    if (masked) tiling.output_pointers(first + t, mask, padding, masks);
    winograd_config().transform_output(
        tiling, m + t * y.channels, stride, y.channels, out, bias, relu, masked ? masks : nullptr,
        nontemporal_store);
  }
}

void convolve_tiles(
    const Tiling& tiling, MatrixView x, const Filters& filters, const float* bias, bool relu,
    MatrixView mask, MatrixView y) {
  if (y.channels == 0) return;
  const Blocking blocking(filters);
  const auto run = [&](const Tile2d& part) {  // its rows are Winograd tiles
    Scratch scratch;
    const int64_t end = part.column + part.columns, frequencies = tiling.frequencies();
    float* const zeros = take_zeros(x.channels, scratch);
    float* const padding = take_zeros(blocking.columns, scratch);
    const int64_t v_stride = frequency_stride(part.rows * x.channels);
    float* const v = scratch.take(frequencies * v_stride);
    float* const m = scratch.take(frequencies * frequency_stride(part.rows * blocking.columns));
    transform_inputs(tiling, part.row, part.rows, x, zeros, v);
    for (int64_t column = part.column; column < end; column += blocking.columns) {
      const int64_t columns = std::min(blocking.columns, end - column);
      const int64_t m_stride = frequency_stride(part.rows * columns);
      for (int64_t f = 0; f < frequencies; ++f) {
        gemm_config().gemm(
            {.a = v + f * v_stride,
             .a_stride = x.channels,
             .b = filters.data + f * filters.stride() + column * x.channels,
             .c = m + f * m_stride,
             .c_stride = columns,
             .rows = part.rows,
             .columns = columns,
             .depth = x.channels,
             .bias = nullptr,
             .relu = false,
             .add = false,
             .prefetch_b = true});
      }
      transform_outputs(
          tiling, part.row, part.rows, m, bias == nullptr ? nullptr : bias + column, relu,
          mask.data == nullptr ? mask : mask.columns(column, columns), y.columns(column, columns),
          padding);
    }
  };
  parallel_for_2d(tiling.count(), blocking.tiles, y.channels, gemm_config().nr, run);
}

// For the weight gradient: v (frequencies, packed (tiles, channels)), the transformed inputs, and
// dm (frequencies, packed (tiles, outputs)), the gradients of what the output transform reads.
// `batch`: rows of a panel, `count` of them used.
void transform_for_weights(
    const Tiling& tiling, int64_t first, int64_t count, int64_t batch, MatrixView grad_y,
    MatrixView x, float* v, float* dm) {
  const int64_t nr = gemm_config().nr;
  const int64_t v_stride = frequency_stride(gemm_config().packed_size(batch, x.channels));
  const int64_t dm_stride = frequency_stride(gemm_config().packed_size(batch, grad_y.channels));
  parallel_for_ranges(count, 4, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    float* const zeros = take_zeros(std::max(grad_y.channels, x.channels), scratch);
    for (int64_t t = begin; t < end; ++t) {
      float *in[kMaxFrequencies], *out[kMaxFrequencies];
      tiling.input_pointers(first + t, x, zeros, in);
      winograd_config().transform_input(tiling, in, x.channels, v + t * nr, v_stride, batch * nr);
      tiling.output_pointers(first + t, grad_y, zeros, out);
      winograd_config().transform_output_adjoint(
          tiling, out, grad_y.channels, dm + t * nr, dm_stride, batch * nr);
    }
  });
}

}  // namespace

int tile_points(const Size& size, int taps, int64_t channels) {
  return tiling_for(size, taps, channels).points;
}

int64_t packed_size(const Size& size, const Filter& w) {
  return Filters{tiling_for(size, w.taps, w.channels), nullptr, w.channels, w.outputs}.size();
}

void pack_filter(const Size& size, const Filter& w, float* packed) {
  transform_forward(tiling_for(size, w.taps, w.channels), w, packed);
}

void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y) {
  Scratch scratch;
  const Tiling tiling = tiling_for(size, w.taps, w.channels);
  const Filters filters{tiling, packed_filter(size, w, scratch), w.channels, w.outputs};
  convolve_tiles(tiling, x, filters, bias, relu, {}, y);
}

void input_gradient(
    const Size& size, MatrixView grad_y, const Filter& w, MatrixView mask, MatrixView grad_x) {
  Scratch scratch;
  const Tiling tiling = tiling_for(size, w.taps, w.channels);
  convolve_tiles(
      tiling, grad_y, transform_backward(tiling, w, scratch), nullptr, false, mask, grad_x);
}

void weight_gradient(const Size& size, MatrixView grad_y, MatrixView x, int taps, float* grad_w) {
  const Tiling tiling = tiling_for(size, taps, x.channels);
  const int64_t outputs = grad_y.channels, channels = x.channels, nr = gemm_config().nr;
  Scratch scratch;
  // Larger batches of tiles do not fit L3; smaller ones accumulate into du more often.
  constexpr int64_t kMin = 96;
  const int64_t batch = ceil_div(tiling.count(), std::max<int64_t>(1, tiling.count() / kMin));
  const int64_t v_size = gemm_config().packed_size(batch, channels);
  const int64_t v_stride = frequency_stride(v_size);
  const int64_t du_stride = frequency_stride(outputs * channels);
  const int64_t dm_stride = frequency_stride(gemm_config().packed_size(batch, outputs));
  float* const v = scratch.take(tiling.frequencies() * v_stride);
  float* const dm = scratch.take(tiling.frequencies() * dm_stride);
  float* const du = scratch.take(tiling.frequencies() * du_stride);
  if (channels % nr != 0) {  // zeros fill the last panel
    for (int64_t f = 0; f < tiling.frequencies(); ++f) {
      std::fill_n(v + f * v_stride + v_size - batch * nr, batch * nr, 0.0f);
    }
  }
  for (int64_t first = 0; first < tiling.count(); first += batch) {
    const int64_t count = std::min(batch, tiling.count() - first);
    transform_for_weights(tiling, first, count, batch, grad_y, x, v, dm);
    parallel_for_each(tiling.frequencies(), [&](int64_t f) {
      gemm_conv::gemm_at_packed(
          dm + f * dm_stride, v + f * v_stride, batch, count, outputs, channels, du + f * du_stride,
          channels, first > 0);
    });
  }
  parallel_for_ranges(outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      winograd_config().transform_filter_adjoint(
          tiling, du + k * channels, du_stride, channels, grad_w + k * taps * taps * channels);
    }
  });
}

}  // namespace googlenet_fast::cpu::winograd_conv

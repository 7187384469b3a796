#include "convolution.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "amx.h"
#include "common.h"
#include "isa.h"
#include "parts.h"
#include "scratch.h"
#include "split_convolution.h"

namespace googlenet_fast::cpu {
namespace {

// Pixels whose products are computed by one thread at a time, about.
constexpr int64_t kPixels = 48;

// Call function(column, columns) for parts of a packed matrix, on all threads.
template <typename F>
void for_panels(int64_t columns, const F& function) {
  const int64_t panel = isa().panel;
  for_each_range(isa().panels(columns), 4, [&](int64_t begin, int64_t end) {
    function(begin * panel, std::min(columns, end * panel) - begin * panel);
  });
}

// A part of c = a · packed, for the rows of `a` from the part's first on.
void multiply_part(
    const Part& part, Rows a, const float* packed, Rows c, const float* bias, bool relu, bool add,
    bool stream = false) {
  const int64_t bytes = isa().packed_size(a.channels, part.columns) * sizeof(float);
  isa().multiply(
      {.a = a.data, .a_stride = a.stride, .b = packed + part.column * a.channels,
       .c = c.row(part.first) + part.column, .c_stride = c.stride, .rows = part.count,
       .columns = part.columns, .depth = a.channels,
       .bias = bias == nullptr ? nullptr : bias + part.column, .relu = relu, .add = add,
       .stream = stream, .far = 2 * bytes > second_level_cache()});
}

// c = a · packed, for all pixels.
void multiply(
    const Size& size, Rows a, const float* packed, Rows c, const float* bias, bool relu) {
  const bool stream = better_streamed(size, c);
  for_parts(size.pixels(), kPixels, c.channels, [&](const Part& part) {
    multiply_part(part, a.from(part.first), packed, c, bias, relu, false, stream);
  });
}

// An image's tiles of Winograd's convolutions.
struct Tiling : WinogradTile {
  Size size;
  int64_t down, across;

  Tiling(const Size& size, WinogradTile tile)
      : WinogradTile(tile), size(size), down(ceil_div(size.height, side())),
        across(ceil_div(size.width, side())) {}

  int64_t count() const { return size.images * down * across; }

  // The n x n pixels of a tile, from `border` above and left of its outputs; `outside` for those
  // beyond the image.
  void pixels(
      int64_t tile, int n, int border, float* data, int64_t stride, float* outside,
      float** found) const {
    const int64_t image = tile / (down * across), rest = tile % (down * across);
    const int64_t top = rest / across * side() - border, left = rest % across * side() - border;
    for (int64_t y = top; y < top + n; ++y) {
      const int64_t row = (image * size.height + y) * size.width;
      for (int64_t x = left; x < left + n; ++x) {
        const bool inside = y >= 0 && y < size.height && x >= 0 && x < size.width;
        *found++ = inside ? data + (row + x) * stride : outside;
      }
    }
  }
};

// The tile that needs the fewest products for an image, and for its filters: reading these takes
// about as long as the products of kFilters tiles. It must not depend on the number of images, or an
// image's values would. Sums of more than kPrecise products are too inexact for nine points: an error of
// 1e-5.
Tiling tiling_of(const Size& size, int taps, int64_t channels) {
  constexpr int64_t kFilters = 2, kPrecise = 160;
  const auto cost = [&](const Tiling& tiling) {
    return tiling.frequencies() * (tiling.down * tiling.across + kFilters);
  };
  Tiling best(size, {6, taps});
  for (const int points : {7, 8, 9}) {
    if (points == 9 && channels > kPrecise) continue;
    const Tiling other(size, {points, taps});
    if (cost(other) < cost(best)) best = other;
  }
  return best;
}

bool by_winograd(int taps) { return taps == 3 || taps == 5; }

// Values from one frequency's matrix of `size` to the next one's. A transform goes through all of them
// at once: an odd number of cache lines apart, they are in different sets of the caches.
int64_t frequency_stride(int64_t size) {
  return (ceil_div(size, kLine) | 1) * kLine;
}

// Transformed filters, packed as B of the products of all frequencies: of depth `depth`.
struct Filters {
  WinogradTile tile;
  const float* data;
  int64_t depth, columns;

  int64_t stride() const { return frequency_stride(isa().packed_size(depth, columns)); }
  int64_t size() const { return tile.frequencies() * stride(); }
};

// Transform filters that pack(tap, to) lays side by side: what is written to a frequency is adjacent then.
template <typename F>
void transform_side_by_side(
    WinogradTile tile, int64_t lanes, bool flipped, float* u, int64_t stride, const F& pack) {
  const int64_t taps = tile.taps * tile.taps;
  Scratch scratch;
  float* const beside = scratch.take(taps * lanes);
  for (int64_t tap = 0; tap < taps; ++tap) pack(tap, beside + tap * lanes);
  isa().transform_filter(tile, beside, lanes, flipped, u, stride);
}

// From channels to outputs.
void transform_forward(WinogradTile tile, const Filter& w, float* u) {
  const int64_t panel = isa().panel, lanes = w.channels * panel, taps = w.taps * w.taps;
  const int64_t stride = Filters{tile, u, w.channels, w.outputs}.stride();
  for_each_task(isa().panels(w.outputs), [&](int64_t j) {
    const Filter rows = w.rows(j * panel, std::min(panel, w.outputs - j * panel));
    transform_side_by_side(tile, lanes, false, u + j * lanes, stride, [&](int64_t tap, float* to) {
      isa().pack_transposed(
          rows.data + tap * w.channels, taps * w.channels, w.channels, rows.outputs, to);
    });
  });
}

// From outputs back to channels: filters turned around, of some outputs at a time.
Filters transform_backward(WinogradTile tile, const Filter& w, Scratch& scratch) {
  constexpr int64_t kOutputs = 64;
  Filters filters{tile, nullptr, w.outputs, w.channels};
  const int64_t panel = isa().panel, taps = w.taps * w.taps, ranges = ceil_div(w.outputs, kOutputs);
  const int64_t stride = filters.stride();
  float* const u = scratch.take(filters.size());
  filters.data = u;
  for_each_task(isa().panels(w.channels) * ranges, [&](int64_t i) {
    const int64_t column = i / ranges * panel, first = i % ranges * kOutputs;
    const int64_t columns = std::min(panel, w.channels - column);
    const Filter rows = w.rows(first, std::min(kOutputs, w.outputs - first));
    float* const to_u = u + column * w.outputs + first * panel;
    transform_side_by_side(
        tile, rows.outputs * panel, true, to_u, stride, [&](int64_t tap, float* to) {
          isa().pack(
              rows.data + tap * w.channels + column, taps * w.channels, rows.outputs, columns,
              rows.outputs, to);
        });
  });
  return filters;
}

// How a thread goes through the tiles: about `tiles` at a time, `columns` of their outputs at a time.
// The transformed tiles and those columns should stay in its second-level cache while the filters,
// which often do not fit there, stream by: the more tiles at a time, the less often. Three rows of products
// are worth two and a half times that cache, two rows any (measured: at batch 64, 10 % of inference).
struct Blocking {
  int64_t tiles, columns;

  explicit Blocking(const Filters& filters)
      : columns(std::min(filters.columns, kPanels * isa().panel)) {
    const int64_t bytes = filters.tile.frequencies() * (filters.depth + columns) * sizeof(float);
    const int64_t cache = second_level_cache(), row = isa().tile_rows;
    tiles = std::max(cache * 3 / 4 / bytes, std::clamp(cache * 5 / 2 / bytes, 2 * row, 3 * row));
  }

 private:
  static constexpr int64_t kPanels = 4;
};

// v (frequencies, tiles, channels), the transformed inputs of `count` tiles.
void transform_inputs(
    const Tiling& tiling, int64_t first, int64_t count, Rows x, float* zeros, float* v) {
  const int64_t stride = frequency_stride(count * x.channels);
  for (int64_t t = 0; t < count; ++t) {
    float* in[kMostFrequencies];
    tiling.pixels(first + t, tiling.points, tiling.taps / 2, x.data, x.stride, zeros, in);
    isa().transform_input(tiling, in, x.channels, v + t * x.channels, stride, isa().panel);
  }
}

// y of `count` tiles from m (frequencies, tiles, channels); pixels beyond the image go to `outside`.
void transform_outputs(
    const Tiling& tiling, int64_t first, int64_t count, const float* m, const float* bias, bool relu,
    Rows mask, Rows y, float* outside) {
  const int64_t stride = frequency_stride(count * y.channels);
  const bool stream = better_streamed(tiling.size, y);
  for (int64_t t = 0; t < count; ++t) {
    float* out[kMostFrequencies];
    float* masks[kMostFrequencies];
    tiling.pixels(first + t, tiling.side(), 0, y.data, y.stride, outside, out);
    if (mask.data != nullptr) {
      tiling.pixels(first + t, tiling.side(), 0, mask.data, mask.stride, outside, masks);
    }
    isa().transform_output(
        tiling, m + t * y.channels, stride, y.channels, out, bias, relu,
        mask.data == nullptr ? nullptr : masks, stream);
  }
}

void convolve_tiles(
    const Tiling& tiling, Rows x, const Filters& filters, const float* bias, bool relu, Rows mask,
    Rows y) {
  if (y.channels == 0) return;
  const Blocking blocking(filters);
  for_parts(tiling.count(), blocking.tiles, y.channels, [&](const Part& part) {
    Scratch scratch;
    const int64_t count = part.count, end = part.column + part.columns;
    float* const zeros = take_zeros(x.channels, scratch);
    float* const outside = take_zeros(blocking.columns, scratch);
    const int64_t v_stride = frequency_stride(count * x.channels);
    float* const v = scratch.take(tiling.frequencies() * v_stride);
    float* const m = scratch.take(tiling.frequencies() * frequency_stride(count * blocking.columns));
    transform_inputs(tiling, part.first, count, x, zeros, v);
    for (int64_t column = part.column; column < end; column += blocking.columns) {
      const int64_t columns = std::min(blocking.columns, end - column);
      const int64_t m_stride = frequency_stride(count * columns);
      for (int64_t f = 0; f < tiling.frequencies(); ++f) {
        isa().multiply(
            {.a = v + f * v_stride, .a_stride = x.channels,
             .b = filters.data + f * filters.stride() + column * x.channels, .c = m + f * m_stride,
             .c_stride = columns, .rows = count, .columns = columns, .depth = x.channels,
             .bias = nullptr, .relu = false, .add = false, .far = true});
      }
      transform_outputs(
          tiling, part.first, count, m, bias == nullptr ? nullptr : bias + column, relu,
          mask.data == nullptr ? mask : mask.columns(column, columns), y.columns(column, columns),
          outside);
    }
  });
}

// Pixels whose outer products are computed at a time: a panel of theirs and one of their gradients' fit
// the first-level cache.
constexpr int64_t kOuterPixels = 192;

void pack_pixels(Rows x, int64_t first, int64_t count, float* packed) {
  isa().pack(x.row(first), x.stride, count, x.channels, kOuterPixels, packed);
}

// Of the maxima around the pixels.
void pack_maxima(const Size& size, Rows x, int64_t first, int64_t count, float* packed) {
  const int64_t panel = isa().panel;
  for (int64_t c = 0; c < x.channels; c += panel, packed += kOuterPixels * panel) {
    const int64_t channels = std::min(panel, x.channels - c);
    if (channels < panel) std::fill_n(packed, count * panel, 0.0f);
    max_pool(size, first, count, x.columns(c, channels), {packed, panel, channels}, nullptr);
  }
}

// c (outputs, columns) = Aᵀ · B of two packed matrices of `rows` of `packed_rows`, plus C if `add`.
void multiply_packed(
    const float* a, const float* b, int64_t packed_rows, int64_t rows, int64_t outputs,
    int64_t columns, float* c, int64_t c_stride, bool add) {
  const int64_t panel = isa().panel;
  for (int64_t k = 0; k < outputs; k += panel, a += packed_rows * panel, c += panel * c_stride) {
    isa().multiply_transposed(
        {a, panel, b, packed_rows, c, c_stride, rows, std::min(panel, outputs - k), columns, add});
  }
}

// The columns of siblings' weight gradients that are of x's channels from `column` on: their pixels are
// added up in their order.
void add_outer_products(
    const Size& size, std::span<const SiblingWeightGradient> siblings, Rows x, int64_t column,
    int64_t columns) {
  Scratch scratch;
  int64_t outputs = 0;
  for (const SiblingWeightGradient& s : siblings) outputs = std::max(outputs, s.grad_y.channels);
  float* const packed_x = scratch.take(isa().packed_size(kOuterPixels, columns));
  float* const packed_grad = scratch.take(isa().packed_size(kOuterPixels, outputs));
  const Rows part = x.columns(column, columns);
  for (int64_t first = 0; first < size.pixels(); first += kOuterPixels) {
    const int64_t count = std::min(kOuterPixels, size.pixels() - first);
    pack_pixels(part, first, count, packed_x);
    for (const SiblingWeightGradient& s : siblings) {
      if (s.pooled) pack_maxima(size, part, first, count, packed_x);
      pack_pixels(s.grad_y, first, count, packed_grad);
      multiply_packed(
          packed_grad, packed_x, kOuterPixels, count, s.grad_y.channels, columns, s.grad_w + column,
          x.channels, first > 0);
    }
  }
}

// v (frequencies, packed (tiles, channels)), the transformed inputs of `count` tiles, and dm
// (frequencies, packed (tiles, outputs)), the gradients of what the inverse transform reads.
void transform_for_weights(
    const Tiling& tiling, int64_t first, int64_t count, int64_t most, Rows grad_y, Rows x, float* v,
    float* dm) {
  const int64_t panel = isa().panel;
  const int64_t v_stride = frequency_stride(isa().packed_size(most, x.channels));
  const int64_t dm_stride = frequency_stride(isa().packed_size(most, grad_y.channels));
  for_each_range(count, 4, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    float* const zeros = take_zeros(std::max(grad_y.channels, x.channels), scratch);
    for (int64_t t = begin; t < end; ++t) {
      float *in[kMostFrequencies], *out[kMostFrequencies];
      tiling.pixels(first + t, tiling.points, tiling.taps / 2, x.data, x.stride, zeros, in);
      isa().transform_input(tiling, in, x.channels, v + t * panel, v_stride, most * panel);
      tiling.pixels(first + t, tiling.side(), 0, grad_y.data, grad_y.stride, zeros, out);
      isa().transform_output_adjoint(
          tiling, out, grad_y.channels, dm + t * panel, dm_stride, most * panel);
    }
  });
}

void weight_gradient_of_tiles(const Tiling& tiling, Rows grad_y, Rows x, float* grad_w) {
  const int64_t outputs = grad_y.channels, channels = x.channels, panel = isa().panel;
  if (tiling.count() == 0) {
    std::fill_n(grad_w, outputs * tiling.taps * tiling.taps * channels, 0.0f);
    return;
  }
  Scratch scratch;
  // Larger batches of tiles would leave the third-level cache, smaller ones add to du more often.
  constexpr int64_t kFewest = 96;
  const int64_t most = ceil_div(tiling.count(), std::max<int64_t>(1, tiling.count() / kFewest));
  const int64_t v_size = isa().packed_size(most, channels), v_stride = frequency_stride(v_size);
  const int64_t dm_stride = frequency_stride(isa().packed_size(most, outputs));
  const int64_t du_stride = frequency_stride(outputs * channels);
  float* const v = scratch.take(tiling.frequencies() * v_stride);
  float* const dm = scratch.take(tiling.frequencies() * dm_stride);
  float* const du = scratch.take(tiling.frequencies() * du_stride);
  if (channels % panel != 0) {  // the last panel is filled up
    for (int64_t f = 0; f < tiling.frequencies(); ++f) {
      std::fill_n(v + f * v_stride + v_size - most * panel, most * panel, 0.0f);
    }
  }
  for (int64_t first = 0; first < tiling.count(); first += most) {
    const int64_t count = std::min(most, tiling.count() - first);
    transform_for_weights(tiling, first, count, most, grad_y, x, v, dm);
    for_each_task(tiling.frequencies(), [&](int64_t f) {
      multiply_packed(
          dm + f * dm_stride, v + f * v_stride, most, count, outputs, channels, du + f * du_stride,
          channels, first > 0);
    });
  }
  for_each_range(outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      isa().transform_filter_adjoint(
          tiling, du + k * channels, du_stride, channels,
          grad_w + k * tiling.taps * tiling.taps * channels);
    }
  });
}

// The weight of a 1x1 convolution as its input gradient multiplies by it.
const float* pack_backward(const Filter& w, Scratch& scratch) {
  float* const packed = scratch.take(isa().packed_size(w.outputs, w.channels));
  for_panels(w.channels, [&](int64_t column, int64_t columns) {
    isa().pack(
        w.data + column, w.channels, w.outputs, columns, w.outputs, packed + column * w.outputs);
  });
  return packed;
}

// Some of a sibling's values.
void multiply_sibling(const Size& size, Rows x, const Sibling& s, Part part, uint8_t* index) {
  Scratch scratch;
  Rows rows = x.from(part.first);
  if (s.pooled) {
    part.columns = s.w.outputs;
    rows = {scratch.take(part.count * x.channels), x.channels, x.channels};
    max_pool(size, part.first, part.count, x, rows, index);
  }
  multiply_part(
      part, rows, s.w.prepared, s.y, s.bias, s.relu, false, better_streamed(size, s.y));
}

// The gradient of the maxima at the pixels from `first` to `last`, for the part's columns. What a thread
// computes for a part does not leave the caches.
Rows pooled_gradient(
    const SiblingGradient& pooled, const float* packed, int64_t first, int64_t last,
    const Part& part, Scratch& scratch) {
  const Rows grad{scratch.take((last - first) * part.columns), part.columns, part.columns};
  for (int64_t pixel = first; pixel < last; pixel += kPixels) {
    const Part block{pixel - first, std::min(kPixels, last - pixel), 0, part.columns};
    multiply_part(
        block, pooled.grad_y.from(pixel), packed + part.column * pooled.w.outputs, grad, nullptr,
        false, false);
  }
  return grad;
}

// Whether products are those of split values: all but the stem's, whose small errors would move the
// maxima of the pool behind it.
bool splits(int taps) { return amx() != nullptr && taps != 7; }

}  // namespace

bool better_streamed(const Size& size, Rows y) {
  constexpr int64_t kSmallest = 2 << 20;  // floats
  const bool lines = reinterpret_cast<uintptr_t>(y.data) % (kLine * sizeof(float)) == 0 &&
                     y.stride % kLine == 0;
  return isa().streams && lines && size.pixels() * y.stride >= kSmallest;
}

int tile_points(const Size& size, int taps, int64_t channels) {
  return amx() == nullptr && by_winograd(taps) ? tiling_of(size, taps, channels).points : 0;
}

int64_t prepared_size(const Size& size, const Filter& w) {
  if (splits(w.taps)) return split::prepared_size(w);
  if (by_winograd(w.taps)) {
    return Filters{tiling_of(size, w.taps, w.channels), nullptr, w.channels, w.outputs}.size();
  }
  return isa().packed_size(w.taps * w.taps * w.channels, w.outputs);
}

void prepare(const Size& size, const Filter& w, float* prepared) {
  if (splits(w.taps)) return split::prepare(w, prepared);
  if (by_winograd(w.taps)) return transform_forward(tiling_of(size, w.taps, w.channels), w, prepared);
  const int64_t depth = w.taps * w.taps * w.channels;
  for_panels(w.outputs, [&](int64_t column, int64_t columns) {
    isa().pack_transposed(
        w.data + column * depth, depth, depth, columns, prepared + column * depth);
  });
}

const float* prepared(const Size& size, const Filter& w, Scratch& scratch) {
  if (w.prepared != nullptr) return w.prepared;
  float* const values = scratch.take(prepared_size(size, w));
  prepare(size, w, values);
  return values;
}

void convolve(const Size& size, Rows x, const Filter& w, const float* bias, bool relu, Rows y) {
  if (amx() != nullptr) return split::convolve(size, x, w, bias, relu, y);
  if (size.pixels() == 0) return;
  Scratch scratch;
  const float* const packed = prepared(size, w, scratch);
  if (by_winograd(w.taps)) {
    const Tiling tiling = tiling_of(size, w.taps, w.channels);
    const Filters filters{tiling, packed, w.channels, w.outputs};
    return convolve_tiles(tiling, x, filters, bias, relu, {}, y);
  }
  multiply(size, x, packed, y, bias, relu);
}

void input_gradient(const Size& size, Rows grad_y, const Filter& w, Rows mask, Rows grad_x) {
  if (amx() != nullptr) return split::input_gradient(size, grad_y, w, mask, grad_x);
  if (size.pixels() == 0) return;
  Scratch scratch;
  if (by_winograd(w.taps)) {
    const Tiling tiling = tiling_of(size, w.taps, w.channels);
    const Filters filters = transform_backward(tiling, w, scratch);
    return convolve_tiles(tiling, grad_y, filters, nullptr, false, mask, grad_x);
  }
  multiply(size, grad_y, pack_backward(w, scratch), grad_x, nullptr, false);
}

void weight_gradient(const Size& size, Rows grad_y, Rows x, int taps, float* grad_w) {
  if (amx() != nullptr) return split::weight_gradient(size, grad_y, x, taps, grad_w);
  if (by_winograd(taps)) {
    return weight_gradient_of_tiles(tiling_of(size, taps, x.channels), grad_y, x, grad_w);
  }
  const SiblingWeightGradient only[] = {{grad_y, grad_w}};
  siblings_weight_gradient(size, only, x);
}

void convolve_siblings(
    const Size& size, Rows x, std::span<Sibling> siblings, uint8_t* index) {
  if (amx() != nullptr) return split::convolve_siblings(size, x, siblings, index);
  if (size.pixels() == 0) return;
  Scratch scratch;
  std::vector<Parts> parts;
  int64_t count = 0;
  for (Sibling& s : siblings) {
    s.w.prepared = prepared(size, s.w, scratch);
    // A window's maxima serve all columns.
    parts.emplace_back(size.pixels(), kPixels, s.pooled ? 1 : s.w.outputs);
    count = std::max(count, parts.back().count());
  }
  for_each_task(count, [&](int64_t i) {
    for (size_t k = 0; k < siblings.size(); ++k) {
      if (i < parts[k].count()) multiply_sibling(size, x, siblings[k], parts[k][i], index);
    }
  });
}

void siblings_input_gradient(
    const Size& size, const SiblingGradient (&siblings)[2], const SiblingGradient& pooled,
    const uint8_t* index, Rows grad_x) {
  if (amx() != nullptr) return split::siblings_input_gradient(size, siblings, pooled, index, grad_x);
  if (size.pixels() == 0) return;
  Scratch scratch;
  const float* const packed_pooled = pack_backward(pooled.w, scratch);
  const float* const packed[] = {
      pack_backward(siblings[0].w, scratch), pack_backward(siblings[1].w, scratch)};
  const int64_t rows = size.images * size.height, step = std::max<int64_t>(1, kPixels / size.width);
  for_parts(rows, size.height, grad_x.channels, [&](const Part& part) {
    Scratch own;
    const int64_t end = part.first + part.count;
    // Windows of the image's rows above and below reach into the part.
    const int64_t above = part.first % size.height > 0, below = end % size.height > 0;
    const int64_t first = (part.first - above) * size.width, last = (end + below) * size.width;
    const Rows grad_pooled = pooled_gradient(pooled, packed_pooled, first, last, part, own);
    const Rows columns = grad_x.columns(part.column, part.columns);
    for (int64_t row = part.first; row < end; row += step) {
      const int64_t count = std::min(step, end - row);
      const Part pixels{row * size.width, count * size.width, part.column, part.columns};
      for (int k = 0; k < 2; ++k) {
        multiply_part(
            pixels, siblings[k].grad_y.from(pixels.first), packed[k], grad_x, nullptr, false, k > 0);
      }
      for (int64_t y = row; y < row + count; ++y) {
        unpool(size, y, grad_pooled, first, index + part.column, grad_x.channels, true, columns);
      }
    }
  });
}

void siblings_weight_gradient(
    const Size& size, std::span<const SiblingWeightGradient> siblings, Rows x) {
  if (amx() != nullptr) return split::siblings_weight_gradient(size, siblings, x);
  if (size.pixels() == 0) {
    for (const SiblingWeightGradient& s : siblings) {
      std::fill_n(s.grad_w, s.grad_y.channels * x.channels, 0.0f);
    }
  }
  const int64_t panel = isa().panel, panels = isa().panels(x.channels);
  const int64_t threads = torch::stable::get_num_threads();
  for_each_range(panels, ceil_div(panels, threads), [&](int64_t begin, int64_t end) {
    const int64_t column = begin * panel;
    add_outer_products(size, siblings, x, column, std::min(x.channels, end * panel) - column);
  });
}

void sum(const Size& size, Rows grad, float* sums) { mask_and_sum(size, grad, {}, {}, sums); }

void mask_and_sum(const Size& size, Rows grad, Rows mask, Rows masked, float* sums) {
  const int64_t pixels = size.pixels(), channels = grad.channels, parts = bias_partials(pixels);
  const bool stream = better_streamed(size, masked);
  Scratch scratch;
  float* const partial = take_zeros(parts * channels, scratch);
  for_each_task(parts, [&](int64_t part) {
    for (int64_t i = part * pixels / parts; i < (part + 1) * pixels / parts; ++i) {
      isa().mask(
          grad.row(i), mask.data == nullptr ? nullptr : mask.row(i), channels,
          masked.data == nullptr ? nullptr : masked.row(i), partial + part * channels, stream);
    }
  });
  add_parts<float>(partial, parts, channels, sums);
}

}  // namespace googlenet_fast::cpu

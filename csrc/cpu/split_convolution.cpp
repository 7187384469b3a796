#include "split_convolution.h"

#include <algorithm>
#include <vector>

#include "amx.h"
#include "common.h"
#include "isa.h"
#include "parts.h"

namespace googlenet_fast::cpu::split {
namespace {

constexpr int64_t kBlock = kSplitBlock;
constexpr int64_t kColumns = 16;  // of B beside each other

int64_t whole_blocks(int64_t count) { return split_blocks(count) * kBlock; }

// 1x1 convolutions are as exact as products of floats. Others make errors of 4e-6 (in norm), like
// Winograd's, and take half the products.
int parts_of(int taps) { return taps == 1 ? 3 : 2; }

// B of a product whose depth is taps² runs of `depth`.
struct Packed {
  int parts, taps;
  int64_t depth, columns;
  uint16_t* data = nullptr;

  int64_t tap_size() const { return split_blocks(depth) * kBlock * kColumns; }
  int64_t part_stride() const { return taps * taps * tap_size(); }
  int64_t column_stride() const { return parts * part_stride(); }
  int64_t size() const { return ceil_div(columns, kColumns) * column_stride(); }
  SplitRight from(int64_t column, int64_t tap) const {
    return {
        data + column / kColumns * column_stride() + tap * tap_size(), column_stride(), part_stride()};
  }
};

Packed forward_of(const Filter& w) { return {parts_of(w.taps), w.taps, w.channels, w.outputs}; }

// From channels to outputs.
void pack_forward(const Filter& w, const Packed& to) {
  const int64_t taps = w.taps * w.taps;
  for_each_task(split_blocks(w.outputs) * taps, [&](int64_t i) {
    const int64_t tap = i % taps, first = i / taps * kBlock;
    amx()->pack_transposed(
        w.data + (first * taps + tap) * w.channels, taps * w.channels, w.channels,
        std::min(kBlock, w.outputs - first), to.parts, to.from(first, tap));
  });
}

Packed forward(const Filter& w, Scratch& scratch) {
  Packed packed = forward_of(w);
  if (w.prepared != nullptr) {
    packed.data = reinterpret_cast<uint16_t*>(const_cast<float*>(w.prepared));
  } else {
    packed.data = scratch.take<uint16_t>(packed.size());
    pack_forward(w, packed);
  }
  return packed;
}

// From outputs back to channels, filters turned around: into `to`, from row `first` of its depth on.
void pack_backward(const Filter& w, const Packed& to, int64_t first) {
  const int64_t taps = w.taps * w.taps;
  for_each_task(split_blocks(w.channels) * taps, [&](int64_t i) {
    Scratch scratch;
    const int64_t tap = i % taps, column = i / taps * kBlock;
    const float** const rows = scratch.take<const float*>(w.outputs);
    for (int64_t k = 0; k < w.outputs; ++k) {
      rows[k] = w.data + (k * taps + taps - 1 - tap) * w.channels + column;
    }
    SplitRight at = to.from(column, tap);
    at.data += first * kColumns;
    amx()->pack(rows, w.outputs, std::min(kBlock, w.channels - column), to.parts, at);
  });
}

Packed backward(const Filter& w, Scratch& scratch) {
  Packed packed{parts_of(w.taps), w.taps, w.outputs, w.channels};
  packed.data = scratch.take<uint16_t>(packed.size());
  pack_backward(w, packed, 0);
  return packed;
}

// The images' pixels one after the other, with zeros between their rows and between images that serve
// both sides: what a tap reads lies as far from each.
struct Positions {
  Size size;
  int taps;
  int64_t border, pitch, rows;  // `pitch`: positions of a row; `rows`: of an image; both with zeros

  Positions(const Size& size, int taps)
      : size(size), taps(taps), border(taps / 2), pitch(size.width + border),
        rows(size.height + border) {}

  int64_t count() const { return size.images * rows * pitch; }
  int64_t margin() const { return border * pitch + border; }  // that taps reach beyond

  // From a position less `margin` to a tap's.
  int64_t shift(int64_t tap) const { return tap / taps * pitch + tap % taps; }

  // The rows of x at `positions` positions from `first` on; `outside` for those between pixels.
  template <typename T>
  void find(int64_t first, int64_t positions, Rows x, T* outside, T** found) const {
    const int64_t end = first + positions;
    int64_t line = (first + (border + 1) * pitch) / pitch - (border + 1);  // rounded down
    for (int64_t p = first; p < end; ++line) {
      const bool inside = line >= 0 && line < size.images * rows && line % rows < size.height;
      const int64_t row = inside ? (line / rows * size.height + line % rows) * size.width : 0;
      for (; p < std::min(end, (line + 1) * pitch); ++p) {
        const int64_t column = p - line * pitch;
        *found++ = inside && column < size.width ? x.row(row + column) : outside;
      }
    }
  }
};

// Rows of `count` positions from `first` on, and of their taps; `sources` side by side, each filled up
// to whole chunks.
SplitLeft split_rows(
    const Positions& positions, int64_t first, int64_t count, std::span<const Rows> sources,
    Scratch& scratch) {
  const int parts = parts_of(positions.taps);
  const int64_t margin = positions.margin(), total = count + 2 * margin;
  const int64_t part_stride = ((whole_blocks(count) + 2 * margin) | 1) * kBlock;
  int64_t chunks = 0, widest = 0;
  for (const Rows& x : sources) {
    chunks += split_blocks(x.channels);
    widest = std::max(widest, x.channels);
  }
  const SplitLeft split{
      scratch.take<uint16_t>(chunks * parts * part_stride), parts * part_stride, part_stride};
  Scratch own;
  float* const zeros = take_zeros(widest, own);
  float** const rows = own.take<float*>(total);
  SplitLeft to = split;
  for (const Rows& x : sources) {
    positions.find(first - margin, total, x, zeros, rows);
    amx()->split_rows(rows, total, x.channels, parts, to);
    to.data += split_blocks(x.channels) * split.chunk_stride;
  }
  return split;
}

// What becomes of products.
struct Target {
  Packed packed;
  const float* bias;
  bool relu;
  Rows mask, y;
  bool stream;          // past the caches
  bool pooled = false;  // of the maxima around the pixels
};

// Some columns of a target, for the positions that `a` was split from.
void multiply(
    const Positions& positions, int64_t first, int64_t count, const SplitLeft& a,
    const Target& target, int64_t column, int64_t columns) {
  Scratch scratch;
  const int64_t taps = positions.taps * positions.taps;
  int64_t* const shifts = scratch.take<int64_t>(taps);
  for (int64_t tap = 0; tap < taps; ++tap) shifts[tap] = positions.shift(tap);
  float* const none = nullptr;
  float** const c = scratch.take<float*>(count);
  float** const masks = scratch.take<float*>(count);
  positions.find(first, count, target.y.columns(column, columns), none, c);
  const bool masked = target.mask.data != nullptr;
  if (masked) positions.find(first, count, target.mask.columns(column, columns), none, masks);
  const Packed& b = target.packed;
  amx()->multiply(
      {.parts = b.parts, .a = a, .b = b.from(column, 0), .rows = count, .columns = columns,
       .chunks = split_blocks(b.depth), .taps = taps, .shifts = shifts},
      {.rows = c, .bias = target.bias == nullptr ? nullptr : target.bias + column,
       .masks = masked ? masks : nullptr, .relu = target.relu, .stream = target.stream});
}

// Call function(first, count, panel, panels) for parts of a product's rows and panels, on all threads.
template <typename F>
void for_split_parts(int64_t rows, int64_t most, int64_t columns, const F& function) {
  const int64_t panel = isa().panel;
  for_parts(rows, most, split_blocks(columns) * panel, [&](const Part& part) {
    function(part.first, part.count, part.column / panel, part.columns / panel);
  });
}

// Blocks of positions that a thread multiplies at a time: those around them are split as well.
int64_t blocks_at_once(const Positions& positions) {
  return positions.taps == 1 ? 4 : std::max<int64_t>(24, 2 * positions.margin() / kBlock);
}

// All targets from x, in one pass over it.
void multiply_all(
    const Positions& positions, Rows x, std::span<const Target> targets, uint8_t* index) {
  int64_t all = 0;
  for (const Target& t : targets) all += whole_blocks(t.packed.columns);
  const int64_t blocks = split_blocks(positions.count()), most = blocks_at_once(positions);
  const auto run = [&](int64_t block, int64_t rows, int64_t panel, int64_t panels) {
    Scratch scratch;
    const int64_t first = block * kBlock;
    const int64_t count = std::min(rows * kBlock, positions.count() - first);
    int64_t begin = panel, end = panel + panels;  // of the targets' panels, one after the other
    SplitLeft own{}, pooled{};
    for (const Target& t : targets) {
      const int64_t own_panels = split_blocks(t.packed.columns);
      const int64_t from = std::max<int64_t>(begin, 0), to = std::min(end, own_panels);
      begin -= own_panels, end -= own_panels;
      if (from >= to) continue;
      SplitLeft& a = t.pooled ? pooled : own;
      if (a.data == nullptr && t.pooled) {
        const Rows maxima{scratch.take(count * x.channels), x.channels, x.channels};
        max_pool(positions.size, first, count, x, maxima, from == 0 ? index : nullptr);
        const Rows sources[] = {{maxima.data - first * x.channels, x.channels, x.channels}};
        a = split_rows(positions, first, count, sources, scratch);
      } else if (a.data == nullptr) {
        a = split_rows(positions, first, count, {&x, 1}, scratch);
      }
      const int64_t column = from * kBlock;
      multiply(
          positions, first, count, a, t, column,
          std::min(to * kBlock, t.packed.columns) - column);
    }
  };
  for_split_parts(blocks, most, all, run);
}

// A weight gradient (outputs, taps, taps, channels).
struct Outer {
  Rows grad_y;
  float* grad_w;
  bool pooled = false;  // of the maxima around the pixels
};

// The sums of outer products of gradients and x, or the maxima around its pixels: those of `most`
// positions after those of others, in parts that are added up in the end. What is split stays with the
// thread that splits it: others would wait for its caches.
struct OuterProducts {
  Positions positions;
  Rows x;
  std::span<const Outer> outers;
  int parts = parts_of(positions.taps);
  int64_t taps = positions.taps * positions.taps;
  int64_t blocks = split_blocks(positions.count());
  int64_t outputs = all_outputs();
  int64_t most = std::min(blocks, fitting()) * kBlock;
  int64_t wide = most + whole_blocks(2 * positions.margin());  // x of them and of their taps

  int64_t all_outputs() const {
    int64_t all = 0;
    for (const Outer& o : outers) all += o.grad_y.channels;
    return all;
  }

  // Blocks whose values fill about half of a second-level cache of 2 MB.
  int64_t fitting() const {
    constexpr int64_t kValues = 1 << 19, kFewest = 4, kMost = 32;
    const int64_t values = (2 * x.channels + outputs) * parts * kBlock + 1;
    return std::clamp<int64_t>(kValues / values, kFewest, kMost);
  }

  // Adding a part up takes a tenth of what its products do; packing x for two groups of outputs takes
  // more than that, unless there are few positions.
  int64_t sums() const {
    constexpr int64_t kMost = 16, kFew = 700;
    const int64_t count = positions.count();
    return std::clamp<int64_t>(count / (taps == 1 ? 1500 : 3000), count < kFew ? 1 : 2, kMost);
  }

  // Of a filter of one tap x and its maxima; of others x from the first position on, and from the second
  // on, for pairs are interleaved.
  struct Inputs {
    SplitRight copies[2];
  };

  Inputs take_inputs(Scratch& scratch) const {
    // Parts begin in different sets of the caches.
    const int64_t part_stride = (wide / 2 | 1) * 2 * kColumns;
    const int64_t size = ceil_div(x.channels, kColumns) * parts * part_stride;
    Inputs inputs;
    for (SplitRight& copy : inputs.copies) {
      copy = {scratch.take<uint16_t>(size), parts * part_stride, part_stride};
    }
    return inputs;
  }

  void pack(int64_t first, int64_t count, float* zeros, const Inputs& inputs) const {
    Scratch scratch;
    const int64_t from = first - positions.margin(), read = count + 2 * positions.margin();
    float** const rows = scratch.take<float*>(read + 1);
    positions.find(from, read + 1, x, zeros, rows);
    bool own = false, pooled = false;
    for (const Outer& o : outers) (o.pooled ? pooled : own) = true;
    if (own) amx()->pack(rows, read, x.channels, parts, inputs.copies[0]);
    if (taps > 1) amx()->pack(rows + 1, read, x.channels, parts, inputs.copies[1]);
    if (!pooled) return;
    const int64_t pixels = std::min(read, positions.count() - from);
    float* const maxima = scratch.take(pixels * x.channels);
    max_pool(positions.size, from, pixels, x, {maxima, x.channels, x.channels}, nullptr);
    for (int64_t i = 0; i < read; ++i) rows[i] = i < pixels ? maxima + i * x.channels : zeros;
    amx()->pack(rows, read, x.channels, parts, inputs.copies[1]);
  }

  // sums (outputs, taps, channels) of an outer = those of the blocks of positions from `begin` to `end`,
  // for a group of its outputs.
  void add_up(
      int64_t begin, int64_t end, int64_t group, int64_t groups, float* const* sums) const {
    Scratch scratch;
    float* const zeros = take_zeros(std::max(x.channels, outputs), scratch);
    const Inputs inputs = take_inputs(scratch);
    const int64_t rows = whole_blocks(outputs) * kBlock;
    const SplitLeft a{scratch.take<uint16_t>(most / kBlock * parts * rows), parts * rows, rows};
    float** const found = scratch.take<float*>(most);
    for (int64_t block = begin; block < end; block += most / kBlock) {
      const int64_t first = block * kBlock, count = std::min(most, end * kBlock - first);
      pack(first, count, zeros, inputs);
      for (size_t i = 0; i < outers.size(); ++i) {
        const Outer& o = outers[i];
        const int64_t all = split_blocks(o.grad_y.channels);
        const int64_t output = group * all / groups * kBlock;
        const int64_t last = std::min(o.grad_y.channels, (group + 1) * all / groups * kBlock);
        positions.find(first, count, o.grad_y.columns(output, last - output), zeros, found);
        amx()->split_columns(found, count, last - output, parts, a);
        for (int64_t tap = 0; tap < taps; ++tap) {
          multiply(
              a, inputs, o.pooled, tap, count / kBlock, last - output, block > begin,
              sums[i] + output * taps * x.channels);
        }
      }
    }
  }

  void multiply(
      const SplitLeft& a, const Inputs& inputs, bool pooled, int64_t tap, int64_t chunks,
      int64_t rows, bool add, float* to) const {
    const int64_t shift = positions.shift(tap), none = 0;
    SplitRight b = inputs.copies[taps == 1 ? pooled : shift % 2];
    b.data += shift / 2 * 2 * kColumns;
    amx()->add_up(
        {.parts = parts, .a = a, .b = b, .rows = rows, .columns = x.channels, .chunks = chunks,
         .taps = 1, .shifts = &none},
        to + tap * x.channels, taps * x.channels, add);
  }

  void run() const {
    Scratch scratch;
    const int64_t count = sums(), row = taps * x.channels;
    // Where there are fewer parts than threads, these share the outputs.
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t groups = std::max<int64_t>(1, std::min(threads / count, split_blocks(outputs)));
    float** const to = scratch.take<float*>(count * outers.size());
    for (int64_t part = 0; part < count; ++part) {
      for (size_t i = 0; i < outers.size(); ++i) {
        to[part * outers.size() + i] =
            part == 0 ? outers[i].grad_w : scratch.take(outers[i].grad_y.channels * row);
      }
    }
    for_each_task(count * groups, [&](int64_t i) {
      const int64_t part = i / groups;
      add_up(
          part * blocks / count, (part + 1) * blocks / count, i % groups, groups,
          to + part * outers.size());
    });
    for (size_t i = 0; i < outers.size() && count > 1; ++i) {
      for_each_range(outers[i].grad_y.channels * row, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t part = 1; part < count; ++part) {
          const float* const from = to[part * outers.size() + i];
          for (int64_t k = begin; k < end; ++k) outers[i].grad_w[k] += from[k];
        }
      });
    }
  }
};

void add_up(const Size& size, int taps, Rows x, std::span<const Outer> outers) {
  if (size.pixels() > 0) return OuterProducts{{size, taps}, x, outers}.run();
  for (const Outer& o : outers) {
    std::fill_n(o.grad_w, o.grad_y.channels * taps * taps * x.channels, 0.0f);
  }
}

}  // namespace

int64_t prepared_size(const Filter& w) {
  return forward_of(w).size() / 2;  // of floats
}

void prepare(const Filter& w, float* prepared) {
  Packed packed = forward_of(w);
  packed.data = reinterpret_cast<uint16_t*>(prepared);
  pack_forward(w, packed);
}

void convolve(const Size& size, Rows x, const Filter& w, const float* bias, bool relu, Rows y) {
  Scratch scratch;
  const Target target{forward(w, scratch), bias, relu, {}, y, better_streamed(size, y)};
  multiply_all({size, w.taps}, x, {&target, 1}, nullptr);
}

void input_gradient(const Size& size, Rows grad_y, const Filter& w, Rows mask, Rows grad_x) {
  Scratch scratch;
  const bool stream = better_streamed(size, grad_x);
  const Target target{backward(w, scratch), nullptr, false, mask, grad_x, stream};
  multiply_all({size, w.taps}, grad_y, {&target, 1}, nullptr);
}

void weight_gradient(const Size& size, Rows grad_y, Rows x, int taps, float* grad_w) {
  const Outer outer{grad_y, grad_w};
  add_up(size, taps, x, {&outer, 1});
}

void convolve_siblings(const Size& size, Rows x, std::span<Sibling> siblings, uint8_t* index) {
  Scratch scratch;
  std::vector<Target> targets;
  for (const Sibling& s : siblings) {
    targets.push_back(
        {forward(s.w, scratch), s.bias, s.relu, {}, s.y, better_streamed(size, s.y), s.pooled});
  }
  multiply_all({size, 1}, x, targets, index);
}

void siblings_input_gradient(
    const Size& size, const SiblingGradient (&siblings)[2], const SiblingGradient& pooled,
    const uint8_t* index, Rows grad_x) {
  if (size.pixels() == 0) return;
  Scratch scratch;
  const Packed packed_pooled = backward(pooled.w, scratch);
  const int64_t first_depth = whole_blocks(siblings[0].w.outputs);
  Packed both{parts_of(1), 1, first_depth + siblings[1].w.outputs, grad_x.channels};
  both.data = scratch.take<uint16_t>(both.size());
  pack_backward(siblings[0].w, both, 0);
  pack_backward(siblings[1].w, both, first_depth);
  const Positions positions(size, 1);
  const int64_t rows = size.images * size.height;
  const int64_t step = std::max<int64_t>(1, 4 * kBlock / size.width);
  const auto run = [&](int64_t first_row, int64_t count, int64_t panel, int64_t panels) {
    Scratch own;
    const int64_t column = panel * kBlock, end = first_row + count;
    const int64_t columns = std::min(grad_x.channels, column + panels * kBlock) - column;
    // Windows of the image's rows above and below reach into the part.
    const int64_t above = first_row % size.height > 0, below = end % size.height > 0;
    const int64_t first = (first_row - above) * size.width, last = (end + below) * size.width;
    const Rows grad_pooled{own.take((last - first) * columns), columns, columns};
    const Rows pooled_at{grad_pooled.data - first * columns - column, columns, grad_x.channels};
    for (int64_t pixel = first; pixel < last; pixel += step * size.width) {
      Scratch inner;
      const int64_t pixels = std::min(step * size.width, last - pixel);
      const SplitLeft a = split_rows(positions, pixel, pixels, {&pooled.grad_y, 1}, inner);
      const Target target{packed_pooled, nullptr, false, {}, pooled_at, false};
      multiply(positions, pixel, pixels, a, target, column, columns);
    }
    for (int64_t row = first_row; row < end; row += step) {
      Scratch inner;
      const int64_t pixel = row * size.width, pixels = std::min(step, end - row) * size.width;
      const Rows sources[] = {siblings[0].grad_y, siblings[1].grad_y};
      const SplitLeft a = split_rows(positions, pixel, pixels, sources, inner);
      const Target target{both, nullptr, false, {}, grad_x, false};
      multiply(positions, pixel, pixels, a, target, column, columns);
      for (int64_t y = row; y < std::min(row + step, end); ++y) {
        unpool(
            size, y, grad_pooled, first, index + column, grad_x.channels, true,
            grad_x.columns(column, columns));
      }
    }
  };
  for_split_parts(rows, size.height, grad_x.channels, run);
}

void siblings_weight_gradient(
    const Size& size, std::span<const SiblingWeightGradient> siblings, Rows x) {
  std::vector<Outer> outers;
  for (const SiblingWeightGradient& s : siblings) outers.push_back({s.grad_y, s.grad_w, s.pooled});
  add_up(size, 1, x, outers);
}

}  // namespace googlenet_fast::cpu::split

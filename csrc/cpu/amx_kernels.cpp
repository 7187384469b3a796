// AMX kernels. Compiled without AMX flags, they emulate the tiles, for tests.

#include <algorithm>
#include <cstring>
#include <utility>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "amx.h"

namespace googlenet_fast::cpu {
namespace {

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors that the instruction set lacks

constexpr int kSide = 16;   // rows of a tile; a row has 16 floats, or 32 bf16
constexpr int kChunk = 32;  // bf16 in a row
constexpr int kTile = kSide * kChunk;
constexpr int kMaxTerms = 3;

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(64)));
template <typename V>
struct Loose {
  typedef V type __attribute__((aligned(2), may_alias));
};

template <typename V>
[[gnu::always_inline]] inline V load(const void* p) {
  return *static_cast<const typename Loose<V>::type*>(p);
}
template <typename V>
[[gnu::always_inline]] inline void store(void* p, V v) {
  *static_cast<typename Loose<V>::type*>(p) = v;
}

// The first `count` of 16 floats, and zeros.
[[gnu::always_inline]] inline Floats load_some(const float* p, int64_t count) {
  if (count >= kSide) return load<Floats>(p);
#ifdef __AVX512F__
  return _mm512_maskz_loadu_ps((1u << count) - 1, p);
#endif
  Floats v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

// The bf16 terms of floats, each in the upper half of 32 bits: what remains after the terms before,
// rounded to bf16. NaN is not rounded: the carry could reach its sign.
struct Split {
  Bits terms[kMaxTerms];

  template <int kTerms>
  [[gnu::always_inline]] static Split of(Floats v) {
    Split split;
    const Bits not_nan = Bits(v == v);
#pragma GCC unroll 3
    for (int t = 0; t < kTerms; ++t) {
      split.terms[t] = (Bits(v) + (t == 0 ? not_nan & 0x8000u : Bits{} + 0x8000u)) & 0xffff0000u;
      v -= Floats(split.terms[t]);
    }
    return split;
  }
};

// The elements kIndex of the concatenation of two vectors.
template <int... kIndex, typename V>
[[gnu::always_inline]] inline V permute(V a, V b) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, kIndex...);
#else
  typedef decltype(a == b) Numbers;
  return __builtin_shuffle(a, b, Numbers{kIndex...});
#endif
}

// The upper halves of two vectors' elements, concatenated.
[[gnu::always_inline]] inline Halves upper_halves(Bits a, Bits b) {
  return [=]<int... kAt>(std::integer_sequence<int, kAt...>) __attribute__((always_inline)) {
    return permute<2 * kAt + 1 ...>(Halves(a), Halves(b));
  }(std::make_integer_sequence<int, kChunk>());
}

// A step of a recursive transposition: rows kDistance apart exchange elements kDistance apart.
template <int kDistance>
[[gnu::always_inline]] inline void exchange(Floats (&rows)[kSide]) {
  [&]<int... kAt>(std::integer_sequence<int, kAt...>) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int r = 0; r < kSide; ++r) {
      if ((r & kDistance) != 0) continue;
      const Floats a = rows[r], b = rows[r + kDistance];
      rows[r] = permute<((kAt & kDistance) == 0 ? kAt : kSide + kAt - kDistance)...>(a, b);
      rows[r + kDistance] =
          permute<((kAt & kDistance) == 0 ? kAt + kDistance : kSide + kAt)...>(a, b);
    }
  }(std::make_integer_sequence<int, kSide>());
}

[[gnu::always_inline]] inline void transpose(Floats (&rows)[kSide]) {
  exchange<8>(rows);
  exchange<4>(rows);
  exchange<2>(rows);
  exchange<1>(rows);
}

template <typename F>
[[gnu::always_inline]] inline void with_terms(int terms, const F& function) {
  if (terms == 2) function.template operator()<2>();
  else function.template operator()<3>();
}

void pack_a(const float* const* rows, int64_t count, int64_t depth, int terms, SplitA to) {
  constexpr int64_t kAhead = 8;  // prefetch distance in rows
  with_terms(terms, [&]<int kTerms>() {
    for (int64_t r = 0; r < count; ++r) {
      const float* const ahead = rows[std::min(r + kAhead, count - 1)];
      uint16_t* at = to.data + r * kChunk;
      for (int64_t k = 0; k < depth; k += kChunk, at += to.chunk_stride) {
        __builtin_prefetch(ahead + k);
        __builtin_prefetch(ahead + k + kSide);
        const Split first = Split::of<kTerms>(load_some(rows[r] + k, depth - k));
        const int64_t rest = depth - k - kSide;
        const Split second =
            rest <= 0 ? Split{} : Split::of<kTerms>(load_some(rows[r] + k + kSide, rest));
#pragma GCC unroll 3
        for (int t = 0; t < kTerms; ++t) {
          store(at + t * to.term_stride, upper_halves(first.terms[t], second.terms[t]));
        }
      }
    }
  });
}

void pack_at(const float* const* rows, int64_t depth, int64_t count, int terms, SplitA to) {
  with_terms(terms, [&]<int kTerms>() {
    for (int64_t k = 0; k < depth; k += kChunk, rows += kChunk, to.data += to.chunk_stride) {
      for (int64_t c = 0; c < count; c += kSide) {
        Floats columns[2][kSide];
        for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 16
          for (int i = 0; i < kSide; ++i) {
            columns[half][i] = load_some(rows[half * kSide + i] + c, count - c);
            if (k + kChunk < depth) __builtin_prefetch(rows[kChunk + half * kSide + i] + c);
          }
          transpose(columns[half]);
        }
        for (int i = 0; i < kSide; ++i) {
          const Split first = Split::of<kTerms>(columns[0][i]);
          const Split second = Split::of<kTerms>(columns[1][i]);
#pragma GCC unroll 3
          for (int t = 0; t < kTerms; ++t) {
            store(
                to.data + t * to.term_stride + (c + i) * kChunk,
                upper_halves(first.terms[t], second.terms[t]));
          }
        }
      }
    }
  });
}

// Interleave two rows of 16 columns (VNNI layout).
template <int kTerms>
[[gnu::always_inline]] inline void pack_pair(
    Floats even, Floats odd, uint16_t* to, int64_t term_stride) {
  const Split first = Split::of<kTerms>(even), second = Split::of<kTerms>(odd);
#pragma GCC unroll 3
  for (int t = 0; t < kTerms; ++t) {
    store(to + t * term_stride, first.terms[t] >> 16 | second.terms[t]);
  }
}

void pack_b(const float* const* rows, int64_t depth, int64_t columns, int terms, SplitB to) {
  constexpr int64_t kAhead = 16;  // prefetch distance in rows
  with_terms(terms, [&]<int kTerms>() {
    for (int64_t k = 0; k < split_blocks(depth) * kChunk; k += 2, to.data += 2 * kSide) {
      const bool prefetches = k + 1 + kAhead < depth;
      const auto row = [&](int64_t r, int64_t c) {
        if (prefetches) __builtin_prefetch(rows[r + kAhead] + c);
        return r < depth ? load_some(rows[r] + c, columns - c) : Floats{};
      };
      uint16_t* at = to.data;
      for (int64_t c = 0; c < columns; c += kSide, at += to.column_stride) {
        pack_pair<kTerms>(row(k, c), row(k + 1, c), at, to.term_stride);
      }
    }
  });
}

void pack_bt(
    const float* bt, int64_t stride, int64_t depth, int64_t columns, int terms, SplitB to) {
  with_terms(terms, [&]<int kTerms>() {
    for (int64_t c = 0; c < columns; c += kSide, to.data += to.column_stride) {
      for (int64_t k = 0; k < split_blocks(depth) * kChunk; k += kSide) {
        Floats rows[kSide];
        for (int i = 0; i < kSide; ++i) {
          const bool in_bounds = c + i < columns && k < depth;
          rows[i] = in_bounds ? load_some(bt + (c + i) * stride + k, depth - k) : Floats{};
        }
        transpose(rows);
        for (int i = 0; i < kSide; i += 2) {
          pack_pair<kTerms>(rows[i], rows[i + 1], to.data + (k + i) * kSide, to.term_stride);
        }
      }
    }
  });
}

#ifdef __AMX_BF16__

// The thread's tile registers, configured while this is in scope: all of 16 rows of 64 bytes.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = kSide;
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // GCC's intrinsics do not take template constants.
  template <int kTo>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTo));
  }
  template <int kTo>
  void load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTo) : "memory");
  }
  template <int kTo, int kA, int kB>
  void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kTo), "i"(kA), "i"(kB));
  }
  template <int kFrom>
  void store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1)" : : "r"(p), "r"(stride), "i"(kFrom) : "memory");
  }
};

#else

class Tiles {
 public:
  template <int kTo>
  void zero() {
    std::memset(&tiles_[kTo], 0, kBytes * kSide);
  }
  template <int kTo>
  void load(const void* p, int64_t stride) {
    for (int r = 0; r < kSide; ++r) {
      std::memcpy(tiles_[kTo].sums[r], static_cast<const char*>(p) + r * stride, kBytes);
    }
  }
  template <int kTo, int kA, int kB>
  void multiply_add() {
    for (int m = 0; m < kSide; ++m) {
      for (int k = 0; k < kChunk; ++k) {
        const float a = value(tiles_[kA].halves[m][k]);
        for (int n = 0; n < kSide; ++n) {
          tiles_[kTo].sums[m][n] += a * value(tiles_[kB].halves[k / 2][2 * n + k % 2]);
        }
      }
    }
  }
  template <int kFrom>
  void store(void* p, int64_t stride) {
    for (int r = 0; r < kSide; ++r) {
      std::memcpy(static_cast<char*>(p) + r * stride, tiles_[kFrom].sums[r], kBytes);
    }
  }

 private:
  static constexpr int kBytes = 64;  // of a row

  static float value(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float v;
    std::memcpy(&v, &bits, sizeof(v));
    return v;
  }

  union {
    float sums[kSide][kSide];
    uint16_t halves[kSide][kChunk];
  } tiles_[8];
};

#endif

// Tiles 0 to 3 are the sums, row by row; 4 and 5 are of A, 6 and 7 of B.
template <int kRows>
[[gnu::always_inline]] inline void load_a(Tiles& tiles, const uint16_t* a) {
  tiles.load<4>(a, 64);
  if constexpr (kRows > 1) tiles.load<5>(a + kTile, 64);
}

template <int kColumns>
[[gnu::always_inline]] inline void load_b(Tiles& tiles, const uint16_t* b, int64_t column_stride) {
  tiles.load<6>(b, 64);
  if constexpr (kColumns > 1) tiles.load<7>(b + column_stride, 64);
}

template <int kRows, int kColumns>
[[gnu::always_inline]] inline void add_products(Tiles& tiles) {
  tiles.multiply_add<0, 4, 6>();
  if constexpr (kColumns > 1) tiles.multiply_add<1, 4, 7>();
  if constexpr (kRows > 1) tiles.multiply_add<2, 5, 6>();
  if constexpr (kRows > 1 && kColumns > 1) tiles.multiply_add<3, 5, 7>();
}

// Accumulate a chunk's products of terms i and j, i + j < terms: the others are as small as the
// error of the split. In this order each product reuses the tiles of A or of B.
template <int kTerms, int kRows, int kColumns>
[[gnu::always_inline]] inline void accumulate_chunk(
    Tiles& tiles, const SplitGemmArgs& p, const uint16_t* a, const uint16_t* b) {
  load_a<kRows>(tiles, a);
  if constexpr (kTerms == 3) {
    load_b<kColumns>(tiles, b + 2 * p.b.term_stride, p.b.column_stride);
    add_products<kRows, kColumns>(tiles);
  }
  load_b<kColumns>(tiles, b + p.b.term_stride, p.b.column_stride);
  add_products<kRows, kColumns>(tiles);
  if constexpr (kTerms == 3) {
    load_a<kRows>(tiles, a + p.a.term_stride);
    add_products<kRows, kColumns>(tiles);
    load_b<kColumns>(tiles, b, p.b.column_stride);
    add_products<kRows, kColumns>(tiles);
    load_a<kRows>(tiles, a + 2 * p.a.term_stride);
    add_products<kRows, kColumns>(tiles);
    load_a<kRows>(tiles, a);
    add_products<kRows, kColumns>(tiles);
  } else {
    load_b<kColumns>(tiles, b, p.b.column_stride);
    add_products<kRows, kColumns>(tiles);
    load_a<kRows>(tiles, a + p.a.term_stride);
    add_products<kRows, kColumns>(tiles);
  }
}

// sums = a block of C, plus sums if `add`. meanwhile() is called after each chunk: tile
// instructions leave issue slots for others.
template <int kTerms, int kRows, int kColumns, typename F>
void compute_block(
    Tiles& tiles, const SplitGemmArgs& p, const uint16_t* a, const uint16_t* b, float* sums,
    int64_t stride, bool add, F& meanwhile) {
  const auto for_each_tile = [&](const auto& function) __attribute__((always_inline)) {
    function.template operator()<0>(sums);
    if constexpr (kColumns > 1) function.template operator()<1>(sums + kSide);
    if constexpr (kRows > 1) function.template operator()<2>(sums + kSide * stride);
    if constexpr (kRows > 1 && kColumns > 1) {
      function.template operator()<3>(sums + kSide * stride + kSide);
    }
  };
  const int64_t bytes = stride * sizeof(float);
  for_each_tile([&]<int kTo>(const float* from) __attribute__((always_inline)) {
    if (add) tiles.load<kTo>(from, bytes);
    else tiles.zero<kTo>();
  });
  for (int64_t tap = 0; tap < p.taps; ++tap) {
    const uint16_t* at = a + p.shifts[tap] * kChunk;
    for (int64_t k = 0; k < p.chunks; ++k, at += p.a.chunk_stride, b += kTile) {
      accumulate_chunk<kTerms, kRows, kColumns>(tiles, p, at, b);
      meanwhile();
    }
  }
  for_each_tile([&]<int kFrom>(float* to)
                    __attribute__((always_inline)) { tiles.store<kFrom>(to, bytes); });
}

// Call function(row, column, run) for the blocks of C, one column of blocks after the other.
// run(sums, stride, add) calls compute_block().
template <typename M, typename F>
void for_each_block(const SplitGemmArgs& p, M& meanwhile, const F& function) {
  with_terms(p.terms, [&]<int kTerms>() {
    Tiles tiles;
    for (int64_t column = 0; column < p.columns; column += kSplitBlock) {
      const bool wide = p.columns - column > kSide;
      for (int64_t row = 0; row < p.rows; row += kSplitBlock) {
        const bool high = p.rows - row > kSide;
        const auto block =
            high ? (wide ? compute_block<kTerms, 2, 2, M> : compute_block<kTerms, 2, 1, M>)
                 : (wide ? compute_block<kTerms, 1, 2, M> : compute_block<kTerms, 1, 1, M>);
        function(row, column, [&](float* sums, int64_t stride, bool add) {
          const uint16_t* const b = p.b.data + column / kSide * p.b.column_stride;
          block(tiles, p, p.a.data + row * kChunk, b, sums, stride, add, meanwhile);
        });
      }
    }
  });
}

// Applies the epilogue to a block, some rows at a time, while the next block is computed.
class Epilogue {
 public:
  Epilogue(const SplitGemmArgs& p, const SplitEpilogue& y)
      : p_(p), y_(y), step_(kSplitBlock / std::max<int64_t>(1, p.chunks * p.taps) + 1),
        lowest_((y.relu ? 0 : -__builtin_inff()) + Floats{}) {}

  // The buffer of the next block's sums.
  float* sums() { return &sums_[current_ ^ 1][0][0]; }

  // Start with the block whose sums are complete.
  void begin(int64_t row, int64_t column) {
    current_ ^= 1;
    first_ = row, column_ = column, next_ = 0;
    rows_ = std::min(kSplitBlock, p_.rows - row);
    columns_ = std::min(kSplitBlock, p_.columns - column);
    for (int64_t c = 0; c < columns_; c += kSide) {
      bias_[c / kSide] =
          y_.bias == nullptr ? Floats{} : load_some(y_.bias + column + c, columns_ - c);
    }
  }

  [[gnu::always_inline]] void operator()() { apply_to(std::min(next_ + step_, rows_)); }
  void finish() { apply_to(rows_); }

 private:
  [[gnu::always_inline]] void apply_to(int64_t end) {
    for (; next_ < end; ++next_) {
      if (y_.rows[first_ + next_] == nullptr) continue;
      apply(0);
      if (columns_ > kSide) apply(kSide);
    }
  }

  [[gnu::always_inline]] void apply(int64_t c) {
    float* const to = y_.rows[first_ + next_] + column_ + c;
    const int64_t count = columns_ - c;
    Floats v = load<Floats>(&sums_[current_][next_][c]) + bias_[c / kSide];
    v = v < lowest_ ? lowest_ : v;
    if (y_.masks != nullptr) {
      v = load_some(y_.masks[first_ + next_] + column_ + c, count) <= 0.0f ? Floats{} : v;
    }
    if (count < kSide) {
      for (int64_t i = 0; i < count; ++i) to[i] = v[i];
      return;
    }
#ifdef __AVX512F__
    if (y_.nontemporal_store) return _mm512_stream_ps(to, v);
#endif
    store(to, v);
  }

  const SplitGemmArgs& p_;
  const SplitEpilogue& y_;
  const int64_t step_;
  const Floats lowest_;
  Floats bias_[2];
  int64_t first_ = 0, column_ = 0, rows_ = 0, columns_ = 0, next_ = 0;
  int current_ = 0;
  alignas(64) float sums_[2][kSplitBlock][kSplitBlock];
};

void gemm(const SplitGemmArgs& p, const SplitEpilogue& y) {
  Epilogue epilogue(p, y);
  for_each_block(p, epilogue, [&](int64_t row, int64_t column, const auto& run) {
    run(epilogue.sums(), kSplitBlock, false);
    epilogue.finish();
    epilogue.begin(row, column);
  });
  epilogue.finish();
}

void gemm_accumulate(const SplitGemmArgs& p, float* c, int64_t c_stride, bool add) {
  const auto nothing = [] {};
  for_each_block(p, nothing, [&](int64_t row, int64_t column, const auto& run) {
    float* const to = c + row * c_stride + column;
    const int64_t rows = std::min(kSplitBlock, p.rows - row);
    const int64_t columns = std::min(kSplitBlock, p.columns - column);
    if (rows % kSide == 0 && columns % kSide == 0) return run(to, c_stride, add);
    alignas(64) float buffer[kSplitBlock][kSplitBlock] = {};
    for (int64_t r = 0; r < rows && add; ++r) std::copy_n(to + r * c_stride, columns, buffer[r]);
    run(&buffer[0][0], kSplitBlock, add);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(buffer[r], columns, to + r * c_stride);
  });
}

}  // namespace

extern const Amx kAmx;
extern const bool kAmxEmulated;
const Amx kAmx{
    .pack_a = pack_a,
    .pack_at = pack_at,
    .pack_b = pack_b,
    .pack_bt = pack_bt,
    .gemm = gemm,
    .gemm_accumulate = gemm_accumulate,
};
#ifdef __AMX_BF16__
const bool kAmxEmulated = false;
#else
const bool kAmxEmulated = true;
#endif

}  // namespace googlenet_fast::cpu

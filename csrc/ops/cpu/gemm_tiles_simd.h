// Kernels of cpu/gemm_tiles.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

// As many sums as the registers hold beside the operands.
inline constexpr int kTileRows = kLanes == 16 ? 6 : kLanes == 8 ? 3 : 2;
inline constexpr int kAxpyRows = kLanes == 16 ? 6 : 2;
inline constexpr int kAxpyVectors = kLanes == 4 ? 2 : 4;

template <class T, int kRows>
WEFT_TARGET void dot_tile(Matrix a_rows, Matrix w_rows, int64_t k, float* sums, int64_t sums_stride) {
  const T* a = reinterpret_cast<const T*>(a_rows.data);
  const T* w = reinterpret_cast<const T*>(w_rows.data);
  F32 sum[kRows][kDotColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kDotColumns; ++j) sum[i][j] = zero();
  }
  int64_t p = 0;
  for (; p + kLanes <= k; p += kLanes) {
    F32 a_vec[kRows];
    for (int i = 0; i < kRows; ++i) a_vec[i] = load(a + i * a_rows.stride + p);
    for (int j = 0; j < kDotColumns; ++j) {
      // As in gemm_bf16_pairs.cpp. One row of f32 needs no more than the machine's own prefetching.
      if constexpr (kRows > 1 || sizeof(T) < 4) {
        __builtin_prefetch(w + (j + kDotColumns) * w_rows.stride + p, 0, 2);
      }
      const F32 w_vec = load(w + j * w_rows.stride + p);
      for (int i = 0; i < kRows; ++i) sum[i][j] = fma(a_vec[i], w_vec, sum[i][j]);
    }
  }
  if (p < k) {
    const int rest = static_cast<int>(k - p);
    for (int j = 0; j < kDotColumns; ++j) {
      const F32 w_vec = load(w + j * w_rows.stride + p, rest);
      for (int i = 0; i < kRows; ++i) {
        sum[i][j] = fma(load(a + i * a_rows.stride + p, rest), w_vec, sum[i][j]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    add_reduced(sums + i * sums_stride, sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  }
}

template <class T, int kRows>
WEFT_TARGET void axpy_tile(Matrix a_rows, Matrix w_rows, int64_t k, int64_t columns, float* sums,
                           int64_t sums_stride) {
  const float* a = reinterpret_cast<const float*>(a_rows.data);
  int64_t j = 0;
  for (; j + kAxpyVectors * kLanes <= columns; j += kAxpyVectors * kLanes) {
    const T* w = reinterpret_cast<const T*>(w_rows.data) + j;
    F32 sum[kRows][kAxpyVectors];
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kAxpyVectors; ++v) sum[i][v] = load(sums + i * sums_stride + j + v * kLanes);
    }
    for (int64_t p = 0; p < k; ++p, w += w_rows.stride) {
      F32 w_vec[kAxpyVectors];
      for (int v = 0; v < kAxpyVectors; ++v) w_vec[v] = load(w + v * kLanes);
      for (int i = 0; i < kRows; ++i) {
        const F32 a_vec = set(a[i * a_rows.stride + p]);
        for (int v = 0; v < kAxpyVectors; ++v) sum[i][v] = fma(a_vec, w_vec[v], sum[i][v]);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kAxpyVectors; ++v) store(sums + i * sums_stride + j + v * kLanes, sum[i][v]);
    }
  }
  for (; j < columns; j += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, columns - j));
    const T* w = reinterpret_cast<const T*>(w_rows.data) + j;
    F32 sum[kRows];
    for (int i = 0; i < kRows; ++i) sum[i] = load(sums + i * sums_stride + j, n);
    for (int64_t p = 0; p < k; ++p, w += w_rows.stride) {
      const F32 w_vec = load(w, n);
      for (int i = 0; i < kRows; ++i) sum[i] = fma(set(a[i * a_rows.stride + p]), w_vec, sum[i]);
    }
    for (int i = 0; i < kRows; ++i) store(sums + i * sums_stride + j, sum[i], n);
  }
}

/// out = sums + bias, rounded once; bias may be null.
template <class Out, class T>
WEFT_TARGET void finish_row(Out* out, const float* sums, const T* bias, int64_t columns) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, columns - j));
    F32 value = load(sums + j, n);
    if (bias != nullptr) value = value + load(bias + j, n);
    store(out + j, value, n);
  }
}

template <class T>
constexpr DotTiles make_dot_tiles() {
  DotTiles tiles{.max_rows = kTileRows, .k_block = 4096 / int64_t{sizeof(T)}, .of_rows = {}};
  tiles.of_rows[1] = &dot_tile<T, 1>;
  tiles.of_rows[2] = &dot_tile<T, 2>;
  if constexpr (kTileRows >= 3) tiles.of_rows[3] = &dot_tile<T, 3>;
  if constexpr (kTileRows >= 6) {
    tiles.of_rows[4] = &dot_tile<T, 4>;
    tiles.of_rows[5] = &dot_tile<T, 5>;
    tiles.of_rows[6] = &dot_tile<T, 6>;
  }
  return tiles;
}
template <class T>
constexpr AxpyTiles make_axpy_tiles() {
  AxpyTiles tiles{.max_rows = kAxpyRows, .of_rows = {}};
  tiles.of_rows[1] = &axpy_tile<T, 1>;
  tiles.of_rows[2] = &axpy_tile<T, 2>;
  if constexpr (kAxpyRows >= 6) {
    tiles.of_rows[3] = &axpy_tile<T, 3>;
    tiles.of_rows[4] = &axpy_tile<T, 4>;
    tiles.of_rows[5] = &axpy_tile<T, 5>;
    tiles.of_rows[6] = &axpy_tile<T, 6>;
  }
  return tiles;
}
template <class T>
inline constexpr DotTiles kDotTiles = make_dot_tiles<T>();
template <class T>
inline constexpr AxpyTiles kAxpyTiles = make_axpy_tiles<T>();

}  // namespace weft::ops::cpu::WEFT_ISA

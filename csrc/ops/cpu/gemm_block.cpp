#include "ops/cpu/gemm_block.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/math.h"
#include "ops/cpu/gemm_tiles.h"
#include "ops/cpu/vec.h"

#define WEFT_SIMD_FILE "ops/cpu/cast_simd.h"
#include "ops/cpu/for_each_isa.h"

namespace weft::ops::cpu {
namespace {

// Sums of a block stay in the second cache beside its operands. None of these sizes changes a result.
constexpr int64_t kDotBlockColumns = 64;
constexpr int64_t kAxpyBlockRows = 24;
constexpr int64_t kAxpyBlockColumns = 256;
constexpr int64_t kAxpyBlockK = 64;
constexpr int64_t kBlockSums = kBlockRows * kDotBlockColumns;
static_assert(kBlockSums == kAxpyBlockRows * kAxpyBlockColumns);

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
};

const std::byte* element(const std::byte* data, DType dtype, int64_t index) {
  return data + index * static_cast<int64_t>(dtype_size(dtype));
}

bool dense_in_k(const Product& product) { return product.w_k_stride == 1 || product.k <= 1; }
bool dense_in_n(const Product& product) { return product.w_n_stride == 1 || product.n <= 1; }

void finish_block(const Product& product, Range rows, Range columns, const float* sums, int64_t sums_stride) {
  const std::byte* bias =
      product.bias == nullptr ? nullptr : element(product.bias, product.dtype, columns.begin);
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    std::byte* out = product.out + (i * product.out_stride + columns.begin) *
                                       static_cast<int64_t>(dtype_size(product.out_dtype));
    finish_row(out, product.out_dtype, sums + (i - rows.begin) * sums_stride, bias, product.dtype,
               columns.size());
  }
}

/// A block of at most kBlockRows x kDotBlockColumns from weights that are dense in k.
void dot_block(const Product& product, Range rows, Range columns) {
  const DotTiles& tiles = dot_tiles(product.dtype);
  alignas(64) std::array<float, kBlockSums> sums;
  const int64_t stride = round_up<int64_t>(columns.size(), kDotColumns);
  std::fill_n(sums.begin(), rows.size() * stride, 0.0F);
  // Tiles of like height: 8 rows are 4 and 4, since a tile of 2 leaves most of the multipliers idle.
  const int64_t num_tiles = ceil_div<int64_t>(rows.size(), tiles.max_rows);
  const int64_t max_tile_rows = ceil_div(rows.size(), num_tiles);
  for (int64_t p = 0; p < product.k; p += tiles.k_block) {
    const int64_t k = std::min(tiles.k_block, product.k - p);
    // Rows outermost: a tile of `a` stays in the first cache while all of w's block passes by from the
    // second.
    for (int64_t i = rows.begin; i < rows.end;) {
      const int64_t tile_rows = std::min(max_tile_rows, rows.end - i);
      const Matrix a = {element(product.a, product.dtype, i * product.a_stride + p), product.a_stride};
      for (int64_t j = columns.begin; j < columns.end;) {
        // The last columns, fewer than a tile has, are taken one at a time: a tile of one row four times
        // over.
        const bool whole = columns.end - j >= kDotColumns;
        const Matrix w = {element(product.w, product.dtype, j * product.w_n_stride + p),
                          whole ? product.w_n_stride : 0};
        float* tile_sums = sums.data() + (i - rows.begin) * stride + (j - columns.begin);
        if (whole) {
          tiles.of_rows[tile_rows](a, w, k, tile_sums, stride);
        } else {
          std::array<float, kMaxTileRows * kDotColumns> copies{};
          for (int64_t r = 0; r < tile_rows; ++r) copies[r * kDotColumns] = tile_sums[r * stride];
          tiles.of_rows[tile_rows](a, w, k, copies.data(), kDotColumns);
          for (int64_t r = 0; r < tile_rows; ++r) tile_sums[r * stride] = copies[r * kDotColumns];
        }
        j += whole ? kDotColumns : 1;
      }
      i += tile_rows;
    }
  }
  finish_block(product, rows, columns, sums.data(), stride);
}

void widen_row(float* out, const std::byte* x, DType dtype, int64_t columns) {
  switch (dtype) {
    case DType::kBF16:
      WEFT_CALL_ISA(cast_row, out, reinterpret_cast<const bf16*>(x), columns);
      return;
    case DType::kF16:
      WEFT_CALL_ISA(cast_row, out, reinterpret_cast<const f16*>(x), columns);
      return;
    default:
      std::memcpy(out, x, static_cast<size_t>(columns) * sizeof(float));
  }
}

/// A block of at most kAxpyBlockRows x kAxpyBlockColumns from weights that are dense in n.
void axpy_block(const Product& product, Range rows, Range columns) {
  const AxpyTiles& tiles = axpy_tiles(product.dtype);
  alignas(64) std::array<float, kBlockSums> sums;
  alignas(64) std::array<float, kMaxTileRows * kAxpyBlockK> a_tile;
  const int64_t stride = columns.size();
  std::fill_n(sums.begin(), rows.size() * stride, 0.0F);
  for (int64_t p = 0; p < product.k; p += kAxpyBlockK) {
    const int64_t k = std::min(kAxpyBlockK, product.k - p);
    const Matrix w = {element(product.w, product.dtype, p * product.w_k_stride + columns.begin),
                      product.w_k_stride};
    for (int64_t i = rows.begin; i < rows.end;) {
      const int64_t tile_rows = std::min<int64_t>(tiles.max_rows, rows.end - i);
      for (int64_t r = 0; r < tile_rows; ++r) {
        widen_row(a_tile.data() + r * kAxpyBlockK,
                  element(product.a, product.dtype, (i + r) * product.a_stride + p), product.dtype, k);
      }
      const Matrix a = {reinterpret_cast<const std::byte*>(a_tile.data()), kAxpyBlockK};
      tiles.of_rows[tile_rows](a, w, k, columns.size(), sums.data() + (i - rows.begin) * stride, stride);
      i += tile_rows;
    }
  }
  finish_block(product, rows, columns, sums.data(), stride);
}

/// Copies `columns` of w, dense neither in n nor in k, into `storage` as rows dense in k, and points the
/// product at them.
Product with_packed_columns(Product product, Range columns, std::vector<std::byte>& storage) {
  const size_t size = dtype_size(product.dtype);
  storage.resize(static_cast<size_t>(columns.size() * product.k) * size);
  std::byte* to = storage.data();
  for (int64_t j = columns.begin; j < columns.end; ++j) {
    for (int64_t p = 0; p < product.k; ++p, to += size) {
      std::memcpy(to, element(product.w, product.dtype, j * product.w_n_stride + p * product.w_k_stride),
                  size);
    }
  }
  product.out += columns.begin * static_cast<int64_t>(dtype_size(product.out_dtype));
  if (product.bias != nullptr) product.bias = element(product.bias, product.dtype, columns.begin);
  product.w = storage.data();
  product.w_n_stride = product.k;
  product.w_k_stride = 1;
  product.n = columns.size();
  return product;
}

void compute_rows(const Product& product, Range rows, Range columns) {
  if (rows.size() == 0) return;
  if (!dense_in_k(product) && !dense_in_n(product)) {
    std::vector<std::byte> storage;
    compute_rows(with_packed_columns(product, columns, storage), rows, {0, columns.size()});
    return;
  }
  const bool dot = dense_in_k(product);
  const int64_t max_rows = dot ? kBlockRows : kAxpyBlockRows;
  const int64_t max_columns = dot ? kDotBlockColumns : kAxpyBlockColumns;
  for (int64_t j = columns.begin; j < columns.end; j += max_columns) {
    const Range block_columns = {j, std::min(columns.end, j + max_columns)};
    for (int64_t i = rows.begin; i < rows.end; i += max_rows) {
      const Range block_rows = {i, std::min(rows.end, i + max_rows)};
      if (dot) {
        dot_block(product, block_rows, block_columns);
      } else {
        axpy_block(product, block_rows, block_columns);
      }
    }
  }
}

/// Columns of one task: a whole block, or less where that would leave cores without work.
int64_t columns_per_task(const ProductList& list, int num_threads) {
  int64_t columns = kAxpyBlockColumns;
  const auto tasks = [&] { return list.count * list.row_splits * ceil_div(list.n, columns); };
  while (columns > 16 && tasks() < 4 * int64_t{num_threads}) columns /= 2;
  return columns;
}

}  // namespace

void compute_products(const ProductList& list, const std::function<Product(int64_t index)>& product,
                      device::ExecContext& context) {
  const int64_t columns = columns_per_task(list, context.num_threads());
  const int64_t column_tasks = ceil_div(list.n, columns);
  const int64_t tasks = list.count * column_tasks * list.row_splits;
  // A task that costs less than its hand-over is not worth another core; reading w costs as much as 8 rows.
  constexpr int64_t kMinTaskCost = 1 << 20;
  const int64_t cost =
      columns * list.k * std::max<int64_t>(8, std::max<int64_t>(1, list.mean_m) / list.row_splits);
  const int64_t grain = std::max<int64_t>(1, kMinTaskCost / std::max<int64_t>(1, cost));
  context.parallel_for(tasks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      // Parts of the rows come innermost: they share columns of w.
      const int64_t part = task % list.row_splits;
      const int64_t first_column = task / list.row_splits % column_tasks * columns;
      const Product current = product(task / list.row_splits / column_tasks);
      const int64_t part_rows = ceil_div(current.m, list.row_splits);
      compute_rows(current,
                   {std::min(current.m, part * part_rows), std::min(current.m, (part + 1) * part_rows)},
                   {first_column, std::min(current.n, first_column + columns)});
    }
  });
}

}  // namespace weft::ops::cpu

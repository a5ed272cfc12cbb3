#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/dtype.h"
#include "device/device.h"

/// Matrix products on the CPU, cut into blocks that fit the caches and shared out between cores.
namespace weft::ops::cpu {

/// out = a * w^T + bias for one matrix w. Strides are in elements.
struct Product {
  std::byte* out = nullptr;
  const std::byte* a = nullptr;
  const std::byte* w = nullptr;
  const std::byte* bias = nullptr;  // or null
  int64_t out_stride = 0;
  int64_t a_stride = 0;
  int64_t w_n_stride = 0;
  int64_t w_k_stride = 0;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  DType dtype = DType::kF32;
  DType out_dtype = DType::kF32;
};

/// What is known of all products before they are made, to share them out between cores.
struct ProductList {
  int64_t count = 0;
  int64_t n = 0;           // of each product
  int64_t k = 0;           // of each product
  int64_t mean_m = 0;      // to judge what a task costs
  int64_t row_splits = 1;  // parts into which the rows of each product are cut; each streams w once
};

/// Rows that one pass over a block of w serves.
inline constexpr int64_t kBlockRows = 96;

/// Computes products 0 .. list.count - 1, made by product(index), on the cores of `context`.
void compute_products(const ProductList& list, const std::function<Product(int64_t index)>& product,
                      device::ExecContext& context);

}  // namespace weft::ops::cpu

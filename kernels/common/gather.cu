// embedding and gather_rows: rows of bytes, one block a row.
#include "kernels/common/launch.cuh"
#include "kernels/common/row_copy.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

// Strides in bytes.
struct RowCopy {
  std::byte* out;
  const std::byte* x;
  const int32_t* index;  // one a block
  int64_t out_stride;
  int64_t x_stride;
  int64_t num_bytes;
  int64_t limit;  // of the indexed rows
};

/// Which rows of the table the ids mean.
struct TokenIds {
  int64_t first;               // of the shard
  const int32_t* last_tokens;  // null: ids below 0 are padding
  int64_t num_slots;
};

constexpr char kBadSlot[] = "embedding: row {} names slot {} of {}";

template <int kWidth>
__global__ void embedding_kernel(OpSite site, const char* bad_slot, RowCopy c, TokenIds ids) {
  let_next_start();
  wait_for_inputs(site);
  int64_t id = c.index[blockIdx.x];
  if (id < 0 && ids.last_tokens != nullptr) {
    const int64_t slot = -(id + 1);
    const bool good = slot < ids.num_slots;
    if (!good && threadIdx.x == 0) fail(site, bad_slot, blockIdx.x, slot, ids.num_slots);
    if (good) id = ids.last_tokens[slot];
  }
  const int64_t local = id - ids.first;
  const bool here = local >= 0 && local < c.limit;
  copy_row<kWidth>(c.out + blockIdx.x * c.out_stride, here ? c.x + local * c.x_stride : nullptr, c.num_bytes);
}

constexpr char kBadIndex[] = "gather_rows: indices[{}]={} is outside x = [{}, ..]";

template <int kWidth>
__global__ void gather_rows_kernel(OpSite site, const char* bad_index, RowCopy c) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t index = c.index[blockIdx.x];
  const bool good = index >= -1 && index < c.limit;
  if (!good && threadIdx.x == 0) fail(site, bad_index, blockIdx.x, index, c.limit);
  copy_row<kWidth>(c.out + blockIdx.x * c.out_stride, good && index >= 0 ? c.x + index * c.x_stride : nullptr,
                   c.num_bytes);
}

int width_of(const RowCopy& c) {
  return widest_access(reinterpret_cast<uintptr_t>(c.out) | reinterpret_cast<uintptr_t>(c.x) |
                       static_cast<uintptr_t>(c.out_stride) | static_cast<uintptr_t>(c.x_stride) |
                       static_cast<uintptr_t>(c.num_bytes));
}

LaunchShape copy_shape(int64_t rows, const RowCopy& c, int width) {
  return {.grid = dim3(grid_x(rows)), .block = dim3(copy_threads(c.num_bytes, width))};
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void embedding(const EmbeddingArgs& args, ExecContext& context) {
  const auto element = static_cast<int64_t>(dtype_size(args.table.dtype));
  const RowCopy c{.out = args.out.as<std::byte>(),
                  .x = args.table.as<std::byte>(),
                  .index = args.ids.as<int32_t>(),
                  .out_stride = args.out.stride[0] * element,
                  .x_stride = args.table.stride[0] * element,
                  .num_bytes = args.table.shape[1] * element,
                  .limit = args.table.shape[0]};
  const bool slots = args.last_tokens.defined();
  const TokenIds ids{.first = args.vocab_begin,
                     .last_tokens = slots ? args.last_tokens.as<int32_t>() : nullptr,
                     .num_slots = slots ? args.last_tokens.shape[0] : 0};
  const int width = width_of(c);
  visit_width(width, [&](auto w) {
    launch<&embedding_kernel<decltype(w)::value>>(cuda_context(context),
                                                  copy_shape(args.ids.shape[0], c, width),
                                                  cuda_context(context).site, kBadSlot, c, ids);
  });
}

void gather_rows(const GatherRowsArgs& args, ExecContext& context) {
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  const RowCopy c{.out = args.out.as<std::byte>(),
                  .x = args.x.as<std::byte>(),
                  .index = args.indices.as<int32_t>(),
                  .out_stride = args.out.stride[0] * element,
                  .x_stride = args.x.stride[0] * element,
                  .num_bytes = args.x.shape[1] * element,
                  .limit = args.x.shape[0]};
  const int width = width_of(c);
  visit_width(width, [&](auto w) {
    launch<&gather_rows_kernel<decltype(w)::value>>(cuda_context(context),
                                                    copy_shape(args.indices.shape[0], c, width),
                                                    cuda_context(context).site, kBadIndex, c);
  });
}

}  // namespace weft::ops::cuda

// moe_permute and moe_unpermute.
#include "kernels/common/row_copy.cuh"
#include "kernels/common/types.cuh"
#include "kernels/moe/places.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256;

struct PermuteShape {
  int64_t position_stride;
  int64_t num_experts;
  int64_t max_rows;  // of an expert
};

constexpr char kBadRows[] = "moe_permute: num_rows={}, but the tensors hold {} rows";
constexpr char kBadId[] = "moe_permute: ids[{}, {}] is {}; local expert ids lie in 0..{}, or are -1";
constexpr char kFullExpert[] =
    "moe_permute: expert {} gets {} rows, but out has room for {} an expert; derive max_rows from the rows "
    "that may arrive";

struct PermuteTexts {
  const char* bad_rows;
  const char* bad_id;
  const char* full_expert;
};
constexpr PermuteTexts kTexts{kBadRows, kBadId, kFullExpert};

// Block e gives the copies of expert e their places; block 0 marks those that have none.
__global__ void place_kernel(OpSite site, PermuteTexts texts, PermuteShape shape, CopyIds ids,
                             int32_t* counts, int32_t* position) {
  __shared__ int32_t scratch[kThreads / kWarpSize];
  let_next_start();
  wait_for_inputs(site);
  const int64_t rows = ids.existing();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  if (expert == 0 && threadIdx.x == 0 && ids.num_rows != nullptr && *ids.num_rows != rows) {
    fail(site, texts.bad_rows, *ids.num_rows, ids.rows);
  }
  const auto position_of = [&](int64_t copy) -> int32_t& {
    return position[copy / ids.top_k * shape.position_stride + copy % ids.top_k];
  };
  const int32_t count = place_copies<kThreads>(
      ids, rows, expert, scratch,
      [&](int64_t copy, int32_t n) {
        position_of(copy) = n < shape.max_rows ? static_cast<int32_t>(expert * shape.max_rows + n) : -1;
      },
      [&](int64_t copy) {
        const int32_t id = ids.at(copy);
        if (expert != 0 || (id >= 0 && id < shape.num_experts)) return;
        position_of(copy) = -1;
        if (id != -1) fail(site, texts.bad_id, copy / ids.top_k, copy % ids.top_k, id, shape.num_experts - 1);
      });
  if (threadIdx.x == 0) {
    counts[expert] = count;
    if (count > shape.max_rows) fail(site, texts.full_expert, expert, count, shape.max_rows);
  }
}

// A block a copy.
template <int kWidth>
__global__ void scatter_kernel(OpSite site, CopyIds ids, std::byte* out, const std::byte* x,
                               const int32_t* position, int64_t position_stride, int64_t x_stride,
                               int64_t num_bytes) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = blockIdx.x / ids.top_k;
  const int64_t k = blockIdx.x - r * ids.top_k;
  if (r >= ids.existing()) return;
  const int64_t place = position[r * position_stride + k];
  if (place >= 0) copy_row<kWidth>(out + place * num_bytes, x + r * x_stride, num_bytes);
}

constexpr char kBadUnpermuteRows[] = "moe_unpermute: num_rows={}, but the tensors hold {} rows";
constexpr char kBadPosition[] =
    "moe_unpermute: position[{}, {}] is {}, but x has {} rows; -1 stands for none";

struct UnpermuteShape {
  const int32_t* num_rows;
  int64_t rows;
  int64_t top_k;
  int64_t position_stride, weights_stride;
  int64_t x_rows;
  int64_t packs;
};

// Blocks: x is the row, y the part of its columns.
template <class Out, class T, int kPack>
__global__ void unpermute_kernel(OpSite site, const char* bad_rows, const char* bad_position,
                                 UnpermuteShape shape, RowView out, RowView x, const int32_t* position,
                                 const float* weights) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = blockIdx.x;
  if (r == 0 && threadIdx.x == 0 && shape.num_rows != nullptr &&
      (*shape.num_rows < 0 || *shape.num_rows > shape.rows)) {
    fail(site, bad_rows, *shape.num_rows, shape.rows);
  }
  if (r >= existing_rows(shape.num_rows, shape.rows)) return;
  const int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  position += r * shape.position_stride;
  weights += r * shape.weights_stride;
  float sum[kPack] = {};
  // All loads of a few copies are under way before the first sum.
  constexpr int kAtOnce = 8;
  for (int64_t first = 0; first < shape.top_k; first += kAtOnce) {
    Pack<T, kPack> values[kAtOnce];
    float weight[kAtOnce];
    bool exists[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t k = first + j;
      const int64_t place = k < shape.top_k ? position[k] : -1;
      exists[j] = place >= 0 && place < shape.x_rows && i < shape.packs;
      if (exists[j]) {
        weight[j] = weights[k];
        values[j] = x.pack<T, kPack>(place, i);
      } else if (place < -1 || place >= shape.x_rows) {
        if (threadIdx.x == 0) fail(site, bad_position, r, k, place, shape.x_rows);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (!exists[j]) continue;
#pragma unroll
      for (int c = 0; c < kPack; ++c) sum[c] = fmaf(weight[j], to_float(values[j].at[c]), sum[c]);
    }
  }
  if (i >= shape.packs) return;
  Pack<Out, kPack> result;
#pragma unroll
  for (int j = 0; j < kPack; ++j) result.at[j] = from_float<Out>(sum[j]);
  out.pack<Out, kPack>(r, i) = result;
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void moe_permute(const PermuteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const PermuteShape shape{.position_stride = args.position.stride[0],
                           .num_experts = args.counts.shape[0],
                           .max_rows = args.out.shape[1]};
  const CopyIds ids{.ids = args.ids.as<int32_t>(),
                    .num_rows = args.num_rows,
                    .rows = args.ids.shape[0],
                    .top_k = args.ids.shape[1],
                    .stride = args.ids.stride[0]};
  if (shape.num_experts == 0) return;
  launch<&place_kernel>(cuda, LaunchShape{.grid = dim3(grid_x(shape.num_experts)), .block = dim3(kThreads)},
                        cuda.site, kTexts, shape, ids, args.counts.as<int32_t>(),
                        args.position.as<int32_t>());
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  const int64_t num_bytes = args.x.shape[1] * element;
  const int64_t x_stride = args.x.stride[0] * element;
  if (ids.rows * ids.top_k == 0 || num_bytes == 0) return;
  const int width =
      widest_access(reinterpret_cast<uintptr_t>(args.out.data) | reinterpret_cast<uintptr_t>(args.x.data) |
                    static_cast<uintptr_t>(x_stride) | static_cast<uintptr_t>(num_bytes));
  const LaunchShape by_copy{.grid = dim3(grid_x(ids.rows * ids.top_k)),
                            .block = dim3(copy_threads(num_bytes, width))};
  visit_width(width, [&](auto w) {
    launch<&scatter_kernel<decltype(w)::value>>(cuda, by_copy, cuda.site, ids, args.out.as<std::byte>(),
                                                args.x.as<std::byte>(), args.position.as<int32_t>(),
                                                shape.position_stride, x_stride, num_bytes);
  });
}

void moe_unpermute(const UnpermuteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const int64_t columns = args.out.shape[1];
  UnpermuteShape shape{.num_rows = args.num_rows,
                       .rows = args.out.shape[0],
                       .top_k = args.position.shape[1],
                       .position_stride = args.position.stride[0],
                       .weights_stride = args.weights.stride[0],
                       .x_rows = args.x.shape[0],
                       .packs = columns};
  visit_dtype("moe_unpermute", args.x.dtype, [&](auto x_type) {
    visit_dtype("moe_unpermute", args.out.dtype, [&](auto out_type) {
      using T = decltype(x_type);
      using Out = decltype(out_type);
      constexpr int kPack = 4;
      const bool packed = has_packed_rows<T>(args.x, columns) && has_packed_rows<Out>(args.out, columns);
      if (packed) shape.packs = columns / kPack;
      const LaunchShape launch_shape{
          .grid = dim3(grid_x(shape.rows), static_cast<unsigned>(ceil_div<int64_t>(shape.packs, kThreads))),
          .block = dim3(kThreads)};
      const auto run = [&](auto pack) {
        launch<&unpermute_kernel<Out, T, decltype(pack)::value>>(
            cuda, launch_shape, cuda.site, kBadUnpermuteRows, kBadPosition, shape, rows_of(args.out),
            rows_of(args.x), args.position.as<int32_t>(), args.weights.as<float>());
      };
      if (packed) {
        run(std::integral_constant<int, kPack>{});
      } else {
        run(std::integral_constant<int, 1>{});
      }
    });
  });
}

}  // namespace weft::ops::cuda

// moe_permute and moe_unpermute. Places are assigned without atomics, so rows of an expert stand in order of
// row: a block an expert reads all ids, which are few and in L2.
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/row_copy.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

struct PermuteShape {
  const int32_t* num_rows;  // device [1], or null: all
  int64_t rows;
  int64_t top_k;
  int64_t ids_stride, position_stride;
  int64_t num_experts;
  int64_t max_rows;  // contiguous: of all experts; masked: of one
  bool masked;
};

constexpr char kBadRows[] = "moe_permute: num_rows={}, but the tensors hold {} rows";
constexpr char kBadId[] = "moe_permute: ids[{}, {}] is {}; local expert ids lie in 0..{}, or are -1";
constexpr char kFullExpert[] =
    "moe_permute: expert {} gets {} rows, but out has room for {} an expert; derive max_rows from the rows "
    "that may arrive";
constexpr char kFull[] =
    "moe_permute: the experts get {} rows, but out has room for {}; derive max_rows from the rows that may "
    "arrive";

struct PermuteTexts {
  const char* bad_rows;
  const char* bad_id;
  const char* full_expert;
  const char* full;
};
constexpr PermuteTexts kTexts{kBadRows, kBadId, kFullExpert, kFull};

__device__ inline int64_t existing_rows(const int32_t* num_rows, int64_t rows) {
  if (num_rows == nullptr) return rows;
  const int64_t n = *num_rows;
  return n < 0 ? 0 : n > rows ? rows : n;
}

// Block e counts the copies of expert e.
__global__ void count_kernel(OpSite site, PermuteTexts texts, PermuteShape shape, const int32_t* ids,
                             int32_t* counts) {
  __shared__ int32_t scratch[kWarps];
  let_next_start();
  wait_for_inputs(site);
  const int64_t rows = existing_rows(shape.num_rows, shape.rows);
  const int32_t expert = static_cast<int32_t>(blockIdx.x);
  if (expert == 0 && threadIdx.x == 0 && shape.num_rows != nullptr && *shape.num_rows != rows) {
    fail(site, texts.bad_rows, *shape.num_rows, shape.rows);
  }
  int32_t count = 0;
  for (int64_t i = threadIdx.x; i < rows * shape.top_k; i += kThreads) {
    const int64_t r = i / shape.top_k;
    const int64_t k = i - r * shape.top_k;
    const int32_t id = ids[r * shape.ids_stride + k];
    if (expert == 0 && (id < -1 || id >= shape.num_experts)) {
      fail(site, texts.bad_id, r, k, id, shape.num_experts - 1);
    }
    count += id == expert ? 1 : 0;
  }
  count = block_reduce(count, scratch, Sum{});
  if (threadIdx.x == 0) counts[expert] = count;
}

// Block e gives the copies of expert e their places, in order of row; block 0 marks those that have none, and
// writes the offsets.
__global__ void place_kernel(OpSite site, PermuteTexts texts, PermuteShape shape, const int32_t* ids,
                             const int32_t* counts, int32_t* offsets, int32_t* position) {
  __shared__ int32_t scratch[kWarps];
  let_next_start();
  wait_for_inputs(site);
  const int64_t rows = existing_rows(shape.num_rows, shape.rows);
  const auto expert = static_cast<int32_t>(blockIdx.x);
  int32_t before = 0;
  int32_t total = 0;
  for (int64_t e = threadIdx.x; e < shape.num_experts; e += kThreads) {
    before += e < expert ? counts[e] : 0;
    total += counts[e];
  }
  before = block_reduce(before, scratch, Sum{});
  total = block_reduce(total, scratch, Sum{});
  if (threadIdx.x == 0) {
    if (shape.masked) {
      if (counts[expert] > shape.max_rows)
        fail(site, texts.full_expert, expert, counts[expert], shape.max_rows);
    } else {
      if (expert == 0 && total > shape.max_rows) fail(site, texts.full, total, shape.max_rows);
      offsets[expert] = before;
      if (expert + 1 == shape.num_experts) offsets[expert + 1] = total;
    }
  }
  const int64_t first = shape.masked ? expert * shape.max_rows : before;
  const int64_t end = shape.masked ? first + shape.max_rows : shape.max_rows;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int64_t next = first;
  for (int64_t begin_at = 0; begin_at < rows * shape.top_k; begin_at += kThreads) {
    const int64_t i = begin_at + threadIdx.x;
    const bool exists = i < rows * shape.top_k;
    const int64_t r = i / shape.top_k;
    const int64_t k = i - r * shape.top_k;
    const int32_t id = exists ? ids[r * shape.ids_stride + k] : -1;
    const bool mine = id == expert;
    const unsigned ballot = __ballot_sync(kAllLanes, mine);
    __syncthreads();
    if (lane == 0) scratch[warp] = __popc(ballot);
    __syncthreads();
    int32_t earlier = __popc(ballot & ((1U << lane) - 1U));
    int32_t all = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) earlier += scratch[w];
      all += scratch[w];
    }
    const int64_t place = next + earlier;
    if (mine) position[r * shape.position_stride + k] = place < end ? static_cast<int32_t>(place) : -1;
    if (expert == 0 && exists && (id < 0 || id >= shape.num_experts)) {
      position[r * shape.position_stride + k] = -1;
    }
    next += all;
  }
}

// A block a copy.
template <int kWidth>
__global__ void scatter_kernel(OpSite site, PermuteShape shape, std::byte* out, const std::byte* x,
                               const int32_t* position, int64_t x_stride, int64_t num_bytes) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = blockIdx.x / shape.top_k;
  const int64_t k = blockIdx.x - r * shape.top_k;
  if (r >= existing_rows(shape.num_rows, shape.rows)) return;
  const int64_t place = position[r * shape.position_stride + k];
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
  for (int64_t k = 0; k < shape.top_k; ++k) {
    const int64_t place = position[k];
    if (place < -1 || place >= shape.x_rows) {
      if (threadIdx.x == 0) fail(site, bad_position, r, k, place, shape.x_rows);
      continue;
    }
    if (place < 0 || i >= shape.packs) continue;
    const auto values = x.pack<T, kPack>(place, i);
#pragma unroll
    for (int j = 0; j < kPack; ++j) sum[j] = fmaf(weights[k], to_float(values.at[j]), sum[j]);
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
  const bool masked = args.out.rank == 3;
  const PermuteShape shape{.num_rows = args.num_rows,
                           .rows = args.ids.shape[0],
                           .top_k = args.ids.shape[1],
                           .ids_stride = args.ids.stride[0],
                           .position_stride = args.position.stride[0],
                           .num_experts = args.counts.shape[0],
                           .max_rows = masked ? args.out.shape[1] : args.out.shape[0],
                           .masked = masked};
  if (shape.num_experts == 0) return;
  const LaunchShape by_expert{.grid = dim3(grid_x(shape.num_experts)), .block = dim3(kThreads)};
  launch<&count_kernel>(cuda, by_expert, cuda.site, kTexts, shape, args.ids.as<int32_t>(),
                        args.counts.as<int32_t>());
  launch<&place_kernel>(cuda, by_expert, cuda.site, kTexts, shape, args.ids.as<int32_t>(),
                        args.counts.as<int32_t>(), masked ? nullptr : args.offsets.as<int32_t>(),
                        args.position.as<int32_t>());
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  const int64_t num_bytes = args.x.shape[1] * element;
  const int64_t x_stride = args.x.stride[0] * element;
  if (shape.rows * shape.top_k == 0 || num_bytes == 0) return;
  const int width =
      widest_access(reinterpret_cast<uintptr_t>(args.out.data) | reinterpret_cast<uintptr_t>(args.x.data) |
                    static_cast<uintptr_t>(x_stride) | static_cast<uintptr_t>(num_bytes));
  const LaunchShape by_copy{.grid = dim3(grid_x(shape.rows * shape.top_k)),
                            .block = dim3(copy_threads(num_bytes, width))};
  visit_width(width, [&](auto w) {
    launch<&scatter_kernel<decltype(w)::value>>(cuda, by_copy, cuda.site, shape, args.out.as<std::byte>(),
                                                args.x.as<std::byte>(), args.position.as<int32_t>(), x_stride,
                                                num_bytes);
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

// moe_permute and moe_unpermute.
#include <algorithm>

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

// Block e gives the copies of expert e their places; block 0, which is there without experts too, marks those
// that have none.
__global__ void __launch_bounds__(kThreads) place_kernel(OpSite site, PermuteTexts texts, PermuteShape shape,
                                                         CopyIds ids, int32_t* counts, int32_t* position) {
  __shared__ int32_t scratch[kThreads / kWarpSize];
  let_next_start();
  wait_for_inputs(site);
  const int32_t rows = ids.existing();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const bool exists = expert < shape.num_experts;
  if (expert == 0 && threadIdx.x == 0 && ids.num_rows != nullptr && *ids.num_rows != rows) {
    fail(site, texts.bad_rows, *ids.num_rows, ids.rows);
  }
  const CopyRun run = run_of_warp<kThreads>(rows * ids.top_k);
  const int32_t placed = exists ? expert : -1;
  int32_t count = 0;
  const int32_t before =
      count_copies<kThreads>(run, ids, placed, scratch, count, [](int32_t /*copy*/, int32_t /*id*/) {});
  place_copies(
      run, ids, placed, before,
      [&](int32_t copy, int32_t n) {
        position[ids.place_of(copy, shape.position_stride)] =
            exists && n < shape.max_rows ? static_cast<int32_t>(expert * shape.max_rows + n) : -1;
      },
      [&](int32_t copy, int32_t id) {
        if (expert != 0 || (id >= 0 && id < shape.num_experts)) return;
        position[ids.place_of(copy, shape.position_stride)] = -1;
        if (id != -1) fail(site, texts.bad_id, copy / ids.top_k, copy % ids.top_k, id, shape.num_experts - 1);
      });
  if (threadIdx.x == 0 && exists) {
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
  const auto copy = static_cast<int32_t>(blockIdx.x);
  const int64_t r = copy / ids.top_k;
  if (r >= ids.existing()) return;
  const int64_t place = position[ids.place_of(copy, position_stride)];
  if (place >= 0) copy_row<kWidth>(out + place * num_bytes, x + r * x_stride, num_bytes);
}

constexpr char kBadUnpermuteRows[] = "moe_unpermute: num_rows={}, but the tensors hold {} rows";
constexpr char kBadPosition[] =
    "moe_unpermute: position[{}, {}] is {}, but x has {} rows; -1 stands for none";

struct UnpermuteShape {
  const int32_t* num_rows;
  int32_t rows;
  int32_t top_k;
  int32_t packs;  // of a row
  int64_t x_rows;
  int64_t out_stride, x_stride, position_stride, weights_stride;
};
struct UnpermuteTexts {
  const char* bad_rows;
  const char* bad_position;
};
constexpr UnpermuteTexts kUnpermuteTexts{kBadUnpermuteRows, kBadPosition};

/// From so many rows on, the next kernel may start only when the inputs of this one are there. While the
/// kernel before this one runs, there is room only where it ended first, and the next one's blocks would
/// crowd there. Fewer blocks lose less by that than they gain by being there early.
constexpr unsigned kManyRows = 64;
constexpr int kSmallBlock = 64;

/// Copies whose values are under way at a time.
constexpr int kAtOnce = 8;

// Blocks: x is the row, y the part of its columns. Each lane of a warp reads the place and the weight of one
// copy, so that all of a row's are there after one load.
template <class Out, class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    unpermute_kernel(OpSite site, UnpermuteTexts texts, UnpermuteShape shape, Out* out, const T* x,
                     const int32_t* position, const float* weights) {
  const bool many_rows = gridDim.x >= kManyRows;
  if (!many_rows) let_next_start();
  wait_for_inputs(site);
  if (many_rows) let_next_start();
  const auto r = static_cast<int32_t>(blockIdx.x);
  const auto i = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int32_t num_rows = shape.num_rows == nullptr ? shape.rows : *shape.num_rows;
  float sum[kPack] = {};
  for (int32_t turn = 0; turn < shape.top_k; turn += kWarpSize) {
    const int32_t k = turn + lane;
    int32_t place = -1;
    float weight = 0.0F;
    if (k < shape.top_k) {  // also of a row that does not exist: its memory does
      place = position[r * shape.position_stride + k];
      weight = weights[r * shape.weights_stride + k];
    }
    if (r >= num_rows) break;
    if (place < -1 || place >= shape.x_rows) {
      if (i < kWarpSize) fail(site, texts.bad_position, r, k, place, shape.x_rows);
      place = -1;
    }
    const int32_t turn_end = min(turn + kWarpSize, shape.top_k);
    for (int32_t first = turn; first < turn_end; first += kAtOnce) {
      Pack<T, kPack> values[kAtOnce];
      float of_copy[kAtOnce];
      bool exists[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {  // a lane without a copy has no place
        const int32_t from = __shfl_sync(kAllLanes, place, first - turn + j);
        of_copy[j] = __shfl_sync(kAllLanes, weight, first - turn + j);
        exists[j] = from >= 0 && i < shape.packs;
        if (exists[j]) values[j] = reinterpret_cast<const Pack<T, kPack>*>(x + from * shape.x_stride)[i];
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (!exists[j]) continue;
#pragma unroll
        for (int c = 0; c < kPack; ++c) sum[c] = fmaf(of_copy[j], to_float(values[j].at[c]), sum[c]);
      }
    }
  }
  if (num_rows < 0 || num_rows > shape.rows) {
    if (r == 0 && i == 0) fail(site, texts.bad_rows, num_rows, shape.rows);
  }
  if (r >= num_rows || i >= shape.packs) return;
  Pack<Out, kPack> result;
#pragma unroll
  for (int c = 0; c < kPack; ++c) result.at[c] = from_float<Out>(sum[c]);
  reinterpret_cast<Pack<Out, kPack>*>(out + r * shape.out_stride)[i] = result;
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
  const CopyIds ids = copy_ids("moe_permute", args.ids, args.num_rows);
  launch<&place_kernel>(cuda,
                        LaunchShape{.grid = dim3(shape.num_experts > 0 ? grid_x(shape.num_experts) : 1U),
                                    .block = dim3(kThreads)},
                        cuda.site, kTexts, shape, ids, args.counts.as<int32_t>(),
                        args.position.as<int32_t>());
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  const int64_t num_bytes = args.x.shape[1] * element;
  const int64_t x_stride = args.x.stride[0] * element;
  const int64_t copies = int64_t{ids.rows} * ids.top_k;
  if (copies == 0 || shape.num_experts == 0 || num_bytes == 0) return;
  const int width =
      widest_access(reinterpret_cast<uintptr_t>(args.out.data) | reinterpret_cast<uintptr_t>(args.x.data) |
                    static_cast<uintptr_t>(x_stride) | static_cast<uintptr_t>(num_bytes));
  const LaunchShape by_copy{.grid = dim3(grid_x(copies)), .block = dim3(copy_threads(num_bytes, width))};
  visit_width(width, [&](auto w) {
    launch<&scatter_kernel<decltype(w)::value>>(cuda, by_copy, cuda.site, ids, args.out.as<std::byte>(),
                                                args.x.as<std::byte>(), args.position.as<int32_t>(),
                                                shape.position_stride, x_stride, num_bytes);
  });
}

void moe_unpermute(const UnpermuteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const int64_t columns = args.out.shape[1];
  if (columns > INT32_MAX) device::cuda::refuse_op("moe_unpermute", "rows of more than 2^31 - 1 columns");
  UnpermuteShape shape{.num_rows = args.num_rows,
                       .rows = static_cast<int32_t>(grid_x(args.out.shape[0])),
                       .top_k = static_cast<int32_t>(args.position.shape[1]),
                       .packs = static_cast<int32_t>(columns),
                       .x_rows = args.x.shape[0],
                       .out_stride = args.out.stride[0],
                       .x_stride = args.x.stride[0],
                       .position_stride = args.position.stride[0],
                       .weights_stride = args.weights.stride[0]};
  visit_dtype("moe_unpermute", args.x.dtype, [&](auto x_type) {
    visit_dtype("moe_unpermute", args.out.dtype, [&](auto out_type) {
      using T = decltype(x_type);
      using Out = decltype(out_type);
      constexpr int kPack = std::min(kPackOf16Bytes<T>, kPackOf16Bytes<Out>);
      const bool packed = has_packed_rows<T>(args.x, columns) && has_packed_rows<Out>(args.out, columns);
      if (packed) shape.packs = static_cast<int32_t>(columns / kPack);
      // Few rows have few loads for each multiprocessor that takes part: small blocks are on more of them.
      const bool small =
          shape.rows * ceil_div<int64_t>(shape.packs, kSmallBlock) <= 2 * int64_t{cuda.num_sms};
      const unsigned threads = small ? kSmallBlock : kThreads;
      const LaunchShape launch_shape{
          .grid = dim3(static_cast<unsigned>(shape.rows),
                       static_cast<unsigned>(ceil_div<int64_t>(shape.packs, threads))),
          .block = dim3(threads)};
      const auto run = [&](auto pack) {
        launch<&unpermute_kernel<Out, T, decltype(pack)::value>>(
            cuda, launch_shape, cuda.site, kUnpermuteTexts, shape, args.out.as<Out>(), args.x.as<T>(),
            args.position.as<int32_t>(), args.weights.as<float>());
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

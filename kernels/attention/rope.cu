// rope: one block a token, one thread a pair.
#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr char kBadPosition[] = "rope: positions[{}]={} is outside cos_sin = [{}, ..]";

struct RopeShape {
  int64_t q_heads;
  int64_t k_heads;
  int64_t half;
  int64_t max_positions;
  int64_t cos_sin_stride;
  bool interleaved;
};

template <class T>
__global__ void rope_kernel(OpSite site, const char* bad_position, RowView q, RowView k,
                            const int32_t* positions, const float* cos_sin, RopeShape shape) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t token = blockIdx.x;
  const int64_t position = positions[token];
  if ((position < -1 || position >= shape.max_positions) && threadIdx.x == 0) {
    fail(site, bad_position, token, position, shape.max_positions);
  }
  if (position < 0 || position >= shape.max_positions) return;
  const float* table = cos_sin + position * shape.cos_sin_stride;
  for (int64_t i = threadIdx.x; i < (shape.q_heads + shape.k_heads) * shape.half; i += blockDim.x) {
    const int64_t head = i / shape.half;
    const int64_t pair = i - head * shape.half;
    T* x = head < shape.q_heads ? q.row<T>(token * shape.q_heads + head)
                                : k.row<T>(token * shape.k_heads + head - shape.q_heads);
    T& first = x[shape.interleaved ? 2 * pair : pair];
    T& second = x[shape.interleaved ? 2 * pair + 1 : shape.half + pair];
    const float a = to_float(first);
    const float b = to_float(second);
    const float cos = table[pair];
    const float sin = table[shape.half + pair];
    // Products are rounded before they are added, as every reference does.
    first = from_float<T>(__fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin)));
    second = from_float<T>(__fadd_rn(__fmul_rn(b, cos), __fmul_rn(a, sin)));
  }
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void rope(const RopeArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const RopeShape shape{.q_heads = args.q.shape[1],
                        .k_heads = args.k.shape[1],
                        .half = args.q.shape[2] / 2,
                        .max_positions = args.cos_sin.shape[0],
                        .cos_sin_stride = args.cos_sin.stride[0],
                        .interleaved = args.interleaved};
  const LaunchShape launch_shape{.grid = dim3(grid_x(args.q.shape[0])), .block = dim3(256)};
  visit_dtype("rope", args.q.dtype, [&](auto type) {
    launch<&rope_kernel<decltype(type)>>(cuda, launch_shape, cuda.site, kBadPosition, rows_of(args.q),
                                         rows_of(args.k), args.positions.as<int32_t>(),
                                         args.cos_sin.as<float>(), shape);
  });
}

}  // namespace weft::ops::cuda

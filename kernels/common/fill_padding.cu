#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256;

// A block a row.
__global__ void fill_padding_kernel(OpSite site, uint8_t* x, int64_t row_stride, int64_t num_bytes,
                                    const int32_t* num_rows, uint8_t value) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = blockIdx.x;
  if (r < *num_rows) return;
  for (int64_t i = threadIdx.x; i < num_bytes; i += kThreads) x[r * row_stride + i] = value;
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void fill_padding(const FillPaddingArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  launch<&fill_padding_kernel>(cuda, {.grid = dim3(grid_x(args.x.shape[0])), .block = dim3(kThreads)},
                               cuda.site, args.x.as<uint8_t>(), args.x.stride[0] * element,
                               args.x.shape[1] * element, args.num_rows, args.value);
}

}  // namespace weft::ops::cuda

#include "exec/hold.h"
#include "kernels/common/launch.cuh"

namespace weft::test {
namespace {

using device::cuda::OpSite;

__global__ void hold_kernel(OpSite site) {
  kernels::let_next_start();
  kernels::wait_for_inputs(site);
  for (int i = 0; i < 2000; ++i) __nanosleep(1000000);
}

}  // namespace

void hold_stream(device::ExecContext& context) {
  const auto& cuda = kernels::cuda_context(context);
  kernels::launch<&hold_kernel>(cuda, {}, cuda.site);
}

}  // namespace weft::test

#pragma once

#include "device/cuda/cuda_context.h"
#include "ops/gemm.h"

namespace weft::kernels {

/// grouped_gemm by the kernels of gemm.cu: any dtype, width and strides.
void native_grouped_gemm(const ops::GroupedGemmArgs& args, const device::cuda::CudaContext& context);

}  // namespace weft::kernels

#pragma once

#include "device/device.h"

#if WEFT_CUDA
#include "ops/cuda/kernels.h"
#endif

/// The function that runs `op` on the device of `stream`: ops::cuda::op or ops::cpu::op.
#if WEFT_CUDA
#define WEFT_KERNEL(stream, op)                                                           \
  ((stream).device().backend() == ::weft::device::Backend::kCuda ? &::weft::ops::cuda::op \
                                                                 : &::weft::ops::cpu::op)
#else
#define WEFT_KERNEL(stream, op) (&::weft::ops::cpu::op)
#endif

#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

/// What goes into a step and comes out of it, over memory of the host that the GPU maps.
namespace weft::kernels {
namespace {

constexpr int kThreads = 128;
constexpr char kBadIndex[] = "scatter_blocks: indices[{}]={} is outside out = [{}, 4]";

// A thread a block. The two loads do not wait for each other: over PCIe that would be another microsecond.
__global__ void scatter_blocks_kernel(OpSite site, const char* bad_index, uint4* out, int64_t blocks,
                                      const uint4* x, const int32_t* indices, int64_t n) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const uint4 block = x[i];
  const int64_t index = indices[i];
  if (index < 0 || index >= blocks) {
    fail(site, bad_index, i, index, blocks);
    return;
  }
  out[index] = block;
}

// A row of blocks an array.
__global__ void copy_words_kernel(OpSite site, ops::CopyWordsArgs args) {
  let_next_start();
  wait_for_inputs(site);
  const ops::WordCopy& copy = args.copies.data()[blockIdx.y];
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < copy.num_words; i += step) {
    static_cast<uint32_t*>(copy.to)[i] = static_cast<const uint32_t*>(copy.from)[i];
  }
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void scatter_blocks(const ScatterBlocksArgs& args, ExecContext& context) {
  const int64_t n = args.indices.shape[0];
  launch<&scatter_blocks_kernel>(
      cuda_context(context), {.grid = dim3(grid_x(ceil_div<int64_t>(n, kThreads))), .block = dim3(kThreads)},
      cuda_context(context).site, kBadIndex, args.out.as<uint4>(), args.out.shape[0], args.x.as<uint4>(),
      args.indices.as<int32_t>(), n);
  // The next kernel begins when this one has ended: kernels of the step may read its inputs before their
  // own turn (ops/rope_write.h, ops/attention.h).
  static_cast<void>(cuda_context(context).foreign_stream());
}

void copy_words(const CopyWordsArgs& args, ExecContext& context) {
  CopyWordsArgs copies;
  unsigned num_copies = 0;
  int64_t longest = 0;
  for (const WordCopy& copy : args.copies) {
    if (copy.num_words == 0) continue;
    copies.copies[num_copies++] = copy;
    longest = copy.num_words > longest ? copy.num_words : longest;
  }
  // As many blocks as are worth starting.
  const int64_t blocks = ceil_div<int64_t>(longest, kThreads);
  const int64_t most = 2 * cuda_context(context).num_sms;
  launch<&copy_words_kernel>(
      cuda_context(context),
      {.grid = dim3(grid_x(blocks < most ? blocks : most), num_copies), .block = dim3(kThreads)},
      cuda_context(context).site, copies);
}

}  // namespace weft::ops::cuda

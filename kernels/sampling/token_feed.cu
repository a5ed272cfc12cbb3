// resolve_token_ids, commit_tokens, fill_padding and localize_experts: a few integers a row.
#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256;

LaunchShape flat_shape(int64_t n) {
  return {.grid = dim3(grid_x(ceil_div<int64_t>(n, kThreads))), .block = dim3(kThreads)};
}
__device__ inline int64_t flat_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

constexpr char kBadSlot[] = "resolve_token_ids: row {} names slot {} of {}";

__global__ void resolve_kernel(OpSite site, const char* bad_slot, int32_t* out, const int32_t* ids,
                               const int32_t* last_tokens, int64_t num_slots, int64_t rows) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = flat_index();
  if (r >= rows) return;
  const int64_t id = ids[r];
  if (id >= 0) {
    out[r] = static_cast<int32_t>(id);
  } else if (-(id + 1) < num_slots) {
    out[r] = last_tokens[-(id + 1)];
  } else {
    fail(site, bad_slot, r, -(id + 1), num_slots);
  }
}

constexpr char kBadCommitSlot[] = "commit_tokens: row {} names slot {} of {}";

__global__ void commit_kernel(OpSite site, const char* bad_slot, int32_t* last_tokens, int64_t num_slots,
                              int32_t* targets, const int32_t* tokens, const int32_t* slots,
                              const int32_t* wanted, const int32_t* num_rows, int64_t rows) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = flat_index();
  if (r >= rows || r >= *num_rows) return;
  const int32_t slot = slots[r];
  if (slot >= num_slots) fail(site, bad_slot, r, slot, num_slots);
  if (slot >= 0 && slot < num_slots) last_tokens[slot] = tokens[r];
  targets[r] = wanted[r] >= 0 ? wanted[r] : wanted[r] == -1 ? tokens[r] : -1;
}

// A block a row.
__global__ void fill_padding_kernel(OpSite site, uint8_t* x, int64_t row_stride, int64_t num_bytes,
                                    const int32_t* num_rows, uint8_t value) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = blockIdx.x;
  if (r < *num_rows) return;
  for (int64_t i = threadIdx.x; i < num_bytes; i += kThreads) x[r * row_stride + i] = value;
}

__global__ void localize_kernel(OpSite site, int32_t* out, const int32_t* ids, int32_t first, int32_t count,
                                int64_t n) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t i = flat_index();
  if (i >= n) return;
  const int32_t id = ids[i];
  const int32_t local = id - first;
  out[i] = id >= 0 && local >= 0 && local < count ? local : -1;
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void resolve_token_ids(const ResolveIdsArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  launch<&resolve_kernel>(cuda, flat_shape(args.out.shape[0]), cuda.site, kBadSlot, args.out.as<int32_t>(),
                          args.ids.as<int32_t>(), args.last_tokens.as<int32_t>(), args.last_tokens.shape[0],
                          args.out.shape[0]);
}

void commit_tokens(const CommitTokensArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  launch<&commit_kernel>(cuda, flat_shape(args.tokens.shape[0]), cuda.site, kBadCommitSlot,
                         args.last_tokens.as<int32_t>(), args.last_tokens.shape[0],
                         args.targets.as<int32_t>(), args.tokens.as<int32_t>(), args.slots.as<int32_t>(),
                         args.wanted.as<int32_t>(), args.num_rows, args.tokens.shape[0]);
}

void fill_padding(const FillPaddingArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  launch<&fill_padding_kernel>(cuda, {.grid = dim3(grid_x(args.x.shape[0])), .block = dim3(kThreads)},
                               cuda.site, args.x.as<uint8_t>(), args.x.stride[0] * element,
                               args.x.shape[1] * element, args.num_rows, args.value);
}

void localize_experts(const LocalizeArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  launch<&localize_kernel>(cuda, flat_shape(args.out.numel()), cuda.site, args.out.as<int32_t>(),
                           args.ids.as<int32_t>(), args.first_expert, args.num_local_experts,
                           args.out.numel());
}

}  // namespace weft::ops::cuda

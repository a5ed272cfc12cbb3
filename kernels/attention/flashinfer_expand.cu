// Copies around the product that expands latents to keys and values: a warp a row, 16 bytes a lane.
#include "kernels/attention/flashinfer_expand.h"
#include "kernels/attention/prefill_plan.h"
#include "kernels/common/reduce.cuh"

namespace weft::kernels {
namespace {

using ops::SequenceBatch;

constexpr int kWarps = 8;

/// Rows of a view, in units of 16 bytes.
struct Chunks {
  uint4* data;
  int64_t row_stride, head_stride;
  int64_t width;
};
Chunks chunks_of(const device::TensorView& view) {
  const auto per_chunk = static_cast<int64_t>(sizeof(uint4) / dtype_size(view.dtype));
  const bool has_heads = view.rank == 3;
  return {.data = view.as<uint4>(),
          .row_stride = view.stride[0] / per_chunk,
          .head_stride = has_heads ? view.stride[1] / per_chunk : 0,
          .width = view.shape[static_cast<size_t>(view.rank - 1)] / per_chunk};
}

__device__ inline void copy_chunks(uint4* out, const uint4* in, int64_t count) {
  for (int64_t i = static_cast<int>(threadIdx.x) % kWarpSize; i < count; i += kWarpSize) out[i] = in[i];
}

LaunchShape warp_a_row(int64_t rows) {
  return {.grid = dim3(grid_x((rows + kWarps - 1) / kWarps)), .block = dim3(kWarps * kWarpSize)};
}
__device__ inline int64_t warp_row() {
  return int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
}

__global__ void pack_latents_kernel(OpSite site, Chunks packed, Chunks cache, SequenceBatch batch,
                                    const int32_t* first_tile, const int32_t* kv_begin,
                                    const int32_t* num_planned, int64_t num_tokens) {
  wait_for_inputs(site);
  const int64_t token = warp_row();
  const int64_t num_seqs = *num_planned;
  if (token >= num_tokens) return;
  uint4* out = packed.data + token * packed.row_stride;
  int64_t low = 0;  // the last sequence that begins at or before the token: those without keys stand before
  int64_t high = num_seqs;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (kv_begin[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  // Behind the last token, and of sequences whose pages cannot be trusted. Attention multiplies what stands
  // there by 0.
  if (token >= kv_begin[num_seqs] || first_tile[low] == first_tile[low + 1]) {
    for (int64_t i = static_cast<int>(threadIdx.x) % kWarpSize; i < packed.width; i += kWarpSize)
      out[i] = uint4{};
    return;
  }
  const int64_t position = token - kv_begin[low];
  const int64_t page = batch.page_table[low * batch.page_table_stride + position / batch.page_size];
  const int64_t slot = page * batch.page_size + position % batch.page_size;
  copy_chunks(out, cache.data + slot * cache.row_stride, packed.width);
}

__global__ void join_keys_kernel(OpSite site, Chunks keys, Chunks nope, Chunks rope, int64_t heads,
                                 int64_t num_rows) {
  wait_for_inputs(site);
  const int64_t row = warp_row();
  if (row >= num_rows) return;
  const int64_t token = row / heads;
  const int64_t head = row - token * heads;
  uint4* out = keys.data + token * keys.row_stride + head * keys.head_stride;
  copy_chunks(out, nope.data + token * nope.row_stride + head * nope.head_stride, nope.width);
  copy_chunks(out + nope.width, rope.data + token * rope.row_stride, rope.width);
}

}  // namespace

void pack_latents(const CudaContext& context, const PackLatentsArgs& args) {
  const PrefillPlanLayout at(args.num_rows, args.batch.max_seqs);
  launch<&pack_latents_kernel>(context, warp_a_row(args.packed.shape[0]), context.site,
                               chunks_of(args.packed), chunks_of(args.cache), args.batch,
                               args.plan + at.first_tile(), args.plan + at.kv_begin(),
                               args.plan + PrefillPlanLayout::kNumSeqs, args.packed.shape[0]);
}

void join_keys(const CudaContext& context, const JoinKeysArgs& args) {
  const int64_t heads = args.keys.shape[1];
  const int64_t rows = args.keys.shape[0] * heads;
  launch<&join_keys_kernel>(context, warp_a_row(rows), context.site, chunks_of(args.keys),
                            chunks_of(args.nope), chunks_of(args.rope), heads, rows);
}

}  // namespace weft::kernels

// Attention of prompts over pages by FlashInfer's kernel for Hopper: head_dim 128, bf16.
#include <flashinfer/attention/hopper/prefill_sm90.cuh>

#include "kernels/attention/flashinfer.h"
#include "kernels/attention/flashinfer_scheduler.cuh"
#include "kernels/common/launch.cuh"

namespace weft::kernels {
namespace {

using device::TensorView;
using Element = cutlass::bfloat16_t;

struct Scale {
  float sm_scale;
};

using Traits =
    flashinfer::AttentionKernelTraits</*USE_TMA_LOAD_KV=*/false, 128, 128, PrefillPlanLayout::kTileRows, 96,
                                      /*NUM_STAGES=*/2, Element, Element, Element, int32_t,
                                      flashinfer::StandardAttention>;
using Mainloop = flashinfer::SparseCollectiveMainloop<Scale, Traits, /*CAUSAL=*/true>;
using Epilogue = flashinfer::CollectiveEpilogue<Traits>;
constexpr auto kKernel =
    &flashinfer::PrefillWithKVCacheKernel<Mainloop, Epilogue, Traits, /*LEFT_SLIDING_WINDOW=*/false,
                                          /*CAUSAL=*/true, PrefillScheduler>;

Element* elements(const TensorView& view) { return static_cast<Element*>(view.data); }

/// FlashInfer's layout (row, column, head) of a [rows, heads, 128] view.
auto layout_of(const TensorView& view) {
  return flashinfer::get_gmem_layout(static_cast<int>(view.shape[0]), static_cast<int>(view.shape[1]),
                                     static_cast<int>(view.shape[2]), view.stride[0], view.stride[1]);
}

}  // namespace

void launch_paged_prefill(const CudaContext& context, const PagedPrefill& args) {
  const int q_heads = static_cast<int>(args.q.shape[1]);
  const int kv_heads = static_cast<int>(args.k_cache.shape[1]);
  const int64_t page_stride = args.k_cache.stride[0] * args.page_size;
  const Mainloop::Params mainloop =
      Mainloop::to_underlying_arguments({.Q_ptr = elements(args.q),
                                         .layout_Q = layout_of(args.q),
                                         .K_ptr = elements(args.k_cache),
                                         .layout_K = layout_of(args.k_cache),
                                         .V_ptr = elements(args.v_cache),
                                         .layout_V = layout_of(args.v_cache),
                                         .kv_indices = args.page_table,
                                         .window_left = -1,
                                         .k_page_stride = page_stride,
                                         .v_page_stride = page_stride,
                                         .page_size = static_cast<uint32_t>(args.page_size),
                                         .additional_params = {.sm_scale = args.scale}});
  const Epilogue::Params epilogue = Epilogue::to_underlying_arguments(
      {.O_ptr = elements(args.out),
       .layout_O = layout_of(args.out),
       .lse_ptr = nullptr,
       .layout_LSE = flashinfer::get_lse_gmem_layout(static_cast<int>(args.q.shape[0]), q_heads)});
  const PrefillScheduler::Params scheduler{
      .site = context.site,
      .num_tiles = args.plan,
      .tiles = reinterpret_cast<const PrefillTile*>(args.plan + PrefillPlanLayout::tiles()),
      .heads = cutlass::FastDivmod(q_heads),
      .group = cutlass::FastDivmod(q_heads / kv_heads),
      .page_table_stride = args.page_table_stride};
  launch<kKernel>(context,
                  {.grid = dim3(static_cast<unsigned>(context.num_sms)),
                   .block = dim3(Traits::NUM_THREADS),
                   .shared_bytes = sizeof(Traits::SharedStorage)},
                  mainloop, epilogue, scheduler);
}

}  // namespace weft::kernels

// Attention of prompts over packed keys and values by FlashInfer's kernel for Hopper: keys of 192 columns,
// values of 128, bf16 (multi-head latent attention, expanded).
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
    flashinfer::AttentionKernelTraits</*USE_TMA_LOAD_KV=*/true, 192, 128, PrefillPlanLayout::kTileRows, 128,
                                      /*NUM_STAGES=*/2, Element, Element, Element, int32_t,
                                      flashinfer::StandardAttention>;
using Mainloop = flashinfer::CollectiveMainloop<Scale, Traits, /*CAUSAL=*/true>;
using Epilogue = flashinfer::CollectiveEpilogue<Traits>;
constexpr auto kKernel =
    &flashinfer::PrefillWithKVCacheKernel<Mainloop, Epilogue, Traits, /*LEFT_SLIDING_WINDOW=*/false,
                                          /*CAUSAL=*/true, PrefillScheduler>;

Element* elements(const TensorView& view) { return static_cast<Element*>(view.data); }

/// FlashInfer's layout (row, column, head) of a [rows, heads, columns] view.
auto layout_of(const TensorView& view) {
  return flashinfer::get_gmem_layout(static_cast<int>(view.shape[0]), static_cast<int>(view.shape[1]),
                                     static_cast<int>(view.shape[2]), view.stride[0], view.stride[1]);
}

}  // namespace

void launch_ragged_prefill(const CudaContext& context, const RaggedPrefill& args) {
  const int heads = static_cast<int>(args.q.shape[1]);
  const Mainloop::Params mainloop =
      Mainloop::to_underlying_arguments({.Q_ptr = elements(args.q),
                                         .layout_Q = layout_of(args.q),
                                         .K_ptr = elements(args.k),
                                         .layout_K = layout_of(args.k),
                                         .V_ptr = elements(args.v),
                                         .layout_V = layout_of(args.v),
                                         .window_left = -1,
                                         .additional_params = {.sm_scale = args.scale}});
  const Epilogue::Params epilogue = Epilogue::to_underlying_arguments(
      {.O_ptr = elements(args.out),
       .layout_O = layout_of(args.out),
       .lse_ptr = nullptr,
       .layout_LSE = flashinfer::get_lse_gmem_layout(static_cast<int>(args.q.shape[0]), heads)});
  const PrefillScheduler::Params scheduler{
      .site = context.site,
      .num_tiles = args.plan,
      .tiles = reinterpret_cast<const PrefillTile*>(args.plan + PrefillPlanLayout::tiles()),
      .heads = cutlass::FastDivmod(heads),
      .group = cutlass::FastDivmod(1),
      .page_table_stride = 0};
  launch<kKernel>(context,
                  {.grid = dim3(static_cast<unsigned>(context.num_sms)),
                   .block = dim3(Traits::NUM_THREADS),
                   .shared_bytes = sizeof(Traits::SharedStorage)},
                  mainloop, epilogue, scheduler);
}

}  // namespace weft::kernels

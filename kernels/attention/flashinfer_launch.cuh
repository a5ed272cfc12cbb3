#pragma once

#include <flashinfer/attention/hopper/prefill_sm90.cuh>

#include "kernels/attention/flashinfer.h"
#include "kernels/attention/flashinfer_scheduler.cuh"
#include "kernels/common/launch.cuh"

/// What the launches of FlashInfer's prompt kernels for Hopper share.
namespace weft::kernels::flashinfer_hopper {

using Element = cutlass::bfloat16_t;

struct Scale {
  float sm_scale;
};

/// Tiles of PrefillPlanLayout::kTileRows rows by kTileKeys keys; kLoadByTma: keys and values lie packed.
template <bool kLoadByTma, int kKeyColumns, int kTileKeys>
using Traits =
    flashinfer::AttentionKernelTraits<kLoadByTma, kKeyColumns, /*HEAD_DIM_VO=*/128,
                                      PrefillPlanLayout::kTileRows, kTileKeys, /*NUM_STAGES=*/2, Element,
                                      Element, Element, int32_t, flashinfer::StandardAttention>;

inline Element* elements(const device::TensorView& view) { return static_cast<Element*>(view.data); }

/// FlashInfer's layout (row, column, head) of a [rows, heads, columns] view.
inline auto layout_of(const device::TensorView& view) {
  return flashinfer::get_gmem_layout(static_cast<int>(view.shape[0]), static_cast<int>(view.shape[1]),
                                     static_cast<int>(view.shape[2]), view.stride[0], view.stride[1]);
}

/// Runs the tiles of `plan` for all heads of `out` ([rows, heads, 128]). group: heads of a key head;
/// page_table_stride: PrefillScheduler's.
template <class KernelTraits, class Mainloop>
void launch_prefill(const CudaContext& context, const typename Mainloop::Params& mainloop,
                    const device::TensorView& out, const int32_t* plan, int group,
                    int32_t page_table_stride) {
  using Epilogue = flashinfer::CollectiveEpilogue<KernelTraits>;
  constexpr auto kKernel =
      &flashinfer::PrefillWithKVCacheKernel<Mainloop, Epilogue, KernelTraits, /*LEFT_SLIDING_WINDOW=*/false,
                                            /*CAUSAL=*/true, PrefillScheduler>;
  const int heads = static_cast<int>(out.shape[1]);
  const typename Epilogue::Params epilogue = Epilogue::to_underlying_arguments(
      {.O_ptr = elements(out),
       .layout_O = layout_of(out),
       .lse_ptr = nullptr,
       .layout_LSE = flashinfer::get_lse_gmem_layout(static_cast<int>(out.shape[0]), heads)});
  const PrefillScheduler::Params scheduler{
      .site = context.site,
      .num_tiles = plan,
      .tiles = reinterpret_cast<const PrefillTile*>(plan + PrefillPlanLayout::tiles()),
      .heads = cutlass::FastDivmod(heads),
      .group = cutlass::FastDivmod(group),
      .page_table_stride = page_table_stride};
  launch<kKernel>(context,
                  {.grid = dim3(static_cast<unsigned>(context.num_sms)),
                   .block = dim3(KernelTraits::NUM_THREADS),
                   .shared_bytes = sizeof(typename KernelTraits::SharedStorage)},
                  mainloop, epilogue, scheduler);
}

}  // namespace weft::kernels::flashinfer_hopper

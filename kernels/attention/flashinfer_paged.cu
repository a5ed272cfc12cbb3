// Attention of prompts over pages by FlashInfer's kernel for Hopper: head_dim 128, bf16.
#include "kernels/attention/flashinfer_launch.cuh"

namespace weft::kernels {
namespace {

using flashinfer_hopper::elements;
using flashinfer_hopper::layout_of;
using Traits = flashinfer_hopper::Traits</*kLoadByTma=*/false, /*kKeyColumns=*/128, /*kTileKeys=*/96>;
using Mainloop = flashinfer::SparseCollectiveMainloop<flashinfer_hopper::Scale, Traits, /*CAUSAL=*/true>;

}  // namespace

void launch_paged_prefill(const CudaContext& context, const PagedPrefill& args) {
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
  flashinfer_hopper::launch_prefill<Traits, Mainloop>(
      context, mainloop, args.out, args.plan, static_cast<int>(args.q.shape[1] / args.k_cache.shape[1]),
      args.page_table_stride);
}

}  // namespace weft::kernels

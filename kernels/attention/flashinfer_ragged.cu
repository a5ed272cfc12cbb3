// Attention of prompts over packed keys and values by FlashInfer's kernel for Hopper: keys of 192 columns,
// values of 128, bf16 (multi-head latent attention, expanded).
#include "kernels/attention/flashinfer_launch.cuh"

namespace weft::kernels {
namespace {

using flashinfer_hopper::elements;
using flashinfer_hopper::layout_of;
using Traits = flashinfer_hopper::Traits</*kLoadByTma=*/true, /*kKeyColumns=*/192, /*kTileKeys=*/128>;
using Mainloop = flashinfer::CollectiveMainloop<flashinfer_hopper::Scale, Traits, /*CAUSAL=*/true>;

}  // namespace

void launch_ragged_prefill(const CudaContext& context, const RaggedPrefill& args) {
  const Mainloop::Params mainloop =
      Mainloop::to_underlying_arguments({.Q_ptr = elements(args.q),
                                         .layout_Q = layout_of(args.q),
                                         .K_ptr = elements(args.k),
                                         .layout_K = layout_of(args.k),
                                         .V_ptr = elements(args.v),
                                         .layout_V = layout_of(args.v),
                                         .window_left = -1,
                                         .additional_params = {.sm_scale = args.scale}});
  flashinfer_hopper::launch_prefill<Traits, Mainloop>(context, mainloop, args.out, args.plan, /*group=*/1,
                                                      /*page_table_stride=*/0);
}

}  // namespace weft::kernels

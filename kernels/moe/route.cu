// route: one warp a token.
#include "kernels/moe/route.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {

RouteShape route_shape(const ops::RouteArgs& args) {
  const int64_t of_groups =
      args.group_score == ops::GroupScore::kNone ? 0 : args.logits.shape[1] + 2 * args.num_groups;
  return {.num_tokens = static_cast<int32_t>(args.logits.shape[0]),
          .num_experts = static_cast<int32_t>(args.logits.shape[1]),
          .top_k = static_cast<int32_t>(args.ids.shape[1]),
          .num_groups = args.num_groups,
          .top_groups = args.top_groups,
          .scoring = args.scoring,
          .group_score = args.group_score,
          .renormalize = args.renormalize,
          .scaling = args.scaling,
          .packed = reinterpret_cast<uintptr_t>(args.logits.data) % 16 == 0 &&
                    args.logits.shape[1] % 4 == 0 && args.logits.stride[0] % 4 == 0,
          .choice_floats = static_cast<int32_t>(of_groups),
          .logits_stride = args.logits.stride[0],
          .ids_stride = args.ids.stride[0],
          .weights_stride = args.weights.stride[0]};
}

RouteTensors route_tensors(const ops::RouteArgs& args) {
  return {.ids = args.ids.as<int32_t>(),
          .weights = args.weights.as<float>(),
          .logits = args.logits.as<float>(),
          .bias = args.bias.defined() ? args.bias.as<float>() : nullptr};
}

namespace {

constexpr int kTokensPerBlock = 4;

template <int kPerLane>
__global__ void route_kernel(OpSite site, RouteShape shape, RouteTensors tensors, ops::ValidRows valid) {
  wait_for_inputs(site);
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int32_t token = static_cast<int32_t>(blockIdx.x) * kTokensPerBlock + warp;
  if (token >= shape.num_tokens) return;
  auto* ids = dynamic_shared<int32_t>();                                          // [kTokensPerBlock][top_k]
  auto* weights = reinterpret_cast<float*>(ids + kTokensPerBlock * shape.top_k);  // [kTokensPerBlock][top_k]
  float* const workspaces = weights + kTokensPerBlock * shape.top_k;
  const Choice chosen{ids + warp * shape.top_k, weights + warp * shape.top_k};
  choose_experts<kPerLane>(shape, tensors, valid, token, chosen, workspaces + warp * shape.choice_floats);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int32_t k = lane; k < shape.top_k; k += kWarpSize) write_choice(shape, tensors, token, chosen, k);
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void route(const RouteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const RouteShape shape = route_shape(args);
  const LaunchShape launch_shape{.grid = dim3(grid_x(ceil_div<int64_t>(shape.num_tokens, kTokensPerBlock))),
                                 .block = dim3(kTokensPerBlock * kWarpSize),
                                 .shared_bytes = static_cast<size_t>(kTokensPerBlock) * 4 *
                                                 static_cast<size_t>(2 * shape.top_k + shape.choice_floats)};
  visit_experts_per_lane(shape.num_experts, [&](auto per_lane) {
    launch<&route_kernel<decltype(per_lane)::value>>(cuda, launch_shape, cuda.site, shape,
                                                     route_tensors(args), args.valid);
  });
}

}  // namespace weft::ops::cuda

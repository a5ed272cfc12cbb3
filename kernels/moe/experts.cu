// expert_ffn, expert_ffn_and_combine and grouped_gemm: which kernels compute the products of experts.
//
// a few tokens: expert_combine.cuh computes the second product and sums up what it leaves.
// few rows an expert (16-bit, aligned): expert_gemm.cuh, with rows gathered and silu_mul applied on the way.
// otherwise: rows are copied, and products and silu_mul are separate kernels: DeepGEMM's where it is part of
// the build, and rows are aligned to its tiles; else those of gemm.cu.
#include <algorithm>
#include <cmath>

#include "kernels/common/row_copy.cuh"
#include "kernels/gemm/grouped.h"
#include "kernels/moe/deepgemm.h"
#include "kernels/moe/expert_combine.cuh"
#include "kernels/moe/expert_gemm.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr char kBadSource[] = "expert_ffn: source[{}] is {}, but x has {} rows";
constexpr ExpertTexts kTexts{kBadOffsets, kBadSource};
constexpr char kBadRows[] = "expert_ffn_and_combine: num_rows={}, but the tensors hold {} rows";
constexpr char kBadPosition[] =
    "expert_ffn_and_combine: position[{}, {}] is {}, but the experts' rows are {}; -1 stands for none";
constexpr CombineTexts kCombineTexts{kTexts, kBadRows, kBadPosition};

// With more rows than this an expert, on average, tensor cores and not memory are the limit.
constexpr int64_t kMostRows = 24;

size_t shared_limit(cudaDeviceAttr attribute) {
  return static_cast<size_t>(device::cuda::device_attribute(attribute));
}

/// True if expert_gemm_kernel serves these operands.
bool is_few_rows(const TensorView& out, const TensorView& a, const TensorView& w, int32_t alignment) {
  return (a.dtype == DType::kBF16 || a.dtype == DType::kF16) && out.dtype == a.dtype &&
         has_packed_rows<bf16>(out, out.shape[1]) && has_packed_rows<bf16>(a, a.shape[1]) &&
         has_packed_rows<bf16>(w, w.shape[2]) && alignment == 1 && out.shape[0] <= kMostRows * w.shape[0];
}

ExpertGemm expert_gemm(const TensorView& out, const TensorView& a, const TensorView& w,
                       const int32_t* offsets, const int32_t* source) {
  return {.out = out.data,
          .a = a.data,
          .w = w.data,
          .offsets = offsets,
          .source = source,
          .out_stride = out.stride[0],
          .a_stride = a.stride[0],
          .w_stride = w.stride[1],
          .w_expert_stride = w.stride[0],
          .segment = segment_length(a.shape[1]),
          .n = static_cast<int32_t>(out.shape[1]),
          .k = static_cast<int32_t>(a.shape[1]),
          .experts = static_cast<int32_t>(w.shape[0]),
          .max_rows = static_cast<int32_t>(out.shape[0]),
          .a_rows = static_cast<int32_t>(a.shape[0]),
          .max_items = 0,
          .offsets_ready = false};
}

template <class Shape>
bool launch_shape(const CudaContext& context, ExpertGemm p) {
  p.max_items = Shape::max_items(p.max_rows, p.experts);
  const size_t shared = Shape::shared_bytes(p.segment, p.max_items);
  if (shared > shared_limit(cudaDevAttrMaxSharedMemoryPerBlockOptin)) return false;
  // Blocks have equal shares, so all must run at once. CUDA takes 1 KiB a block for itself.
  const size_t room = shared_limit(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (shared + 1024);
  const int blocks_per_sm = std::max(1, std::min(static_cast<int>(room), Shape::kBlocksPerSm));
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(context.num_sms * blocks_per_sm)),
                          .block = dim3(Shape::kThreads),
                          .shared_bytes = shared,
                          // Behind the first product the split is that of a kernel of the same kind.
                          .needs_l1 = !Shape::kSharedRing && !p.offsets_ready};
  launch<&expert_gemm_kernel<Shape>>(context, shape, context.site, kTexts, p);
  return true;
}

/// More row blocks hold the rows of more experts at once, whose weights are then read once, but leave room
/// for fewer loads. Blocks of short units are often at their barrier: three of them keep more loads under way
/// than two, but have too few registers for three row blocks. Measured on an H200 with even routing; any
/// choice gives the same bits.
template <class T, int kSteps, int kTiles, bool kSilu>
bool launch_rows(const CudaContext& context, const ExpertGemm& p) {
  constexpr bool kShort = !kSilu && kSteps == 3;
  const double mean = static_cast<double>(p.max_rows) / p.experts;
  const double most = mean + 3.5 * std::sqrt(mean);
  if (most > 8) {
    constexpr int kMany = kShort ? 3 : 4;
    if ((kSilu || mean > 13) &&
        launch_shape<ExpertShape<T, kSteps, kTiles, kMany, kSilu, kShort ? 2 : 1>>(context, p)) {
      return true;
    }
    if (launch_shape<ExpertShape<T, kSteps, 1, 2, kSilu, kShort ? 3 : 2>>(context, p)) return true;
  }
  return launch_shape<ExpertShape<T, kSteps, kTiles, 1, kSilu, 2>>(context, p);
}

/// False if rows of `a` are too long for shared memory.
template <class T, bool kSilu>
bool launch_few_rows(const CudaContext& context, const ExpertGemm& p) {
  const int64_t steps = p.segment / kStepK;
  if constexpr (!kSilu) {
    if (steps <= 3) return launch_rows<T, 3, 2, kSilu>(context, p);
    if (steps <= 6) return launch_rows<T, 6, 1, kSilu>(context, p);
  }
  return launch_rows<T, 8, 1, kSilu>(context, p);
}

template <bool kSilu>
bool launch_few_rows(const CudaContext& context, DType dtype, const ExpertGemm& p) {
  return dtype == DType::kBF16 ? launch_few_rows<bf16, kSilu>(context, p)
                               : launch_few_rows<f16, kSilu>(context, p);
}

template <class T, int kTiles, int kStages, int kRounds>
void launch_combine(const CudaContext& context, const ExpertCombine& c) {
  using Shape = CombineShape<T, kTiles, kStages, kRounds>;
  const LaunchShape shape{.grid = dim3(grid_x(ceil_div<int64_t>(c.product.n, Shape::kColumns))),
                          .block = dim3(Shape::kThreads),
                          .shared_bytes = Shape::kSharedBytes};
  launch<&expert_combine_kernel<Shape>>(context, shape, context.site, kCombineTexts, c);
}

/// As many blocks as there are multiprocessors, if columns allow.
template <class T>
void launch_combine(const CudaContext& context, const ExpertCombine& c) {
  const int64_t tiles = ceil_div<int64_t>(c.product.n, 16);
  if (tiles <= context.num_sms) return launch_combine<T, 1, 4, 4>(context, c);
  if (tiles <= int64_t{2} * context.num_sms) return launch_combine<T, 2, 3, 2>(context, c);
  return launch_combine<T, 4, 2, 1>(context, c);
}

/// True if expert_combine_kernel serves these operands, behind expert_gemm_kernel.
bool combines_at_once(const ops::ExpertFfnArgs& experts, const ops::UnpermuteArgs& combine) {
  return combine.position.shape[0] <= kCombineRows && experts.out.shape[0] <= kCombineCopies &&
         combine.position.numel() <= kCombineCopies && combine.out.dtype == experts.act.dtype &&
         is_few_rows(experts.out, experts.act, experts.down, experts.alignment);
}

/// The first product of experts with few rows; false if expert_gemm_kernel does not serve it.
bool launch_gate_up(const CudaContext& context, const ops::ExpertFfnArgs& args) {
  return is_few_rows(args.act, args.x, args.gate_up, args.alignment) &&
         launch_few_rows<true>(context, args.x.dtype,
                               expert_gemm(args.act, args.x, args.gate_up, args.offsets.as<int32_t>(),
                                           args.source.as<int32_t>()));
}

/// The second one, behind it.
ExpertGemm down_gemm(const ops::ExpertFfnArgs& args) {
  ExpertGemm p = expert_gemm(args.out, args.act, args.down, args.offsets.as<int32_t>(), nullptr);
  p.offsets_ready = true;
  return p;
}

void launch_down(const CudaContext& context, const ops::ExpertFfnArgs& args) {
  if (!is_few_rows(args.out, args.act, args.down, args.alignment) ||
      !launch_few_rows<false>(context, args.x.dtype, down_gemm(args))) {
    native_grouped_gemm({.out = args.out,
                         .a = args.act,
                         .w = args.down,
                         .offsets = args.offsets.as<int32_t>(),
                         .alignment = args.alignment},
                        context);
  }
}

// A block a row of out.
template <int kWidth>
__global__ void gather_kernel(OpSite site, const char* bad_source, std::byte* out, const std::byte* x,
                              const int32_t* source, int64_t x_rows, int64_t out_stride, int64_t x_stride,
                              int64_t num_bytes) {
  let_next_start();
  wait_for_inputs(site);
  const int64_t r = blockIdx.x;
  const int64_t from = source[r];
  if (from >= x_rows && threadIdx.x == 0) fail(site, bad_source, r, from, x_rows);
  if (from < 0 || from >= x_rows) return;
  copy_row<kWidth>(out + r * out_stride, x + from * x_stride, num_bytes);
}

void gather(const CudaContext& context, const ops::ExpertFfnArgs& args) {
  const auto element = static_cast<int64_t>(dtype_size(args.x.dtype));
  const int64_t num_bytes = args.x.shape[1] * element;
  const int64_t x_stride = args.x.stride[0] * element;
  const int64_t out_stride = args.copies.stride[0] * element;
  const int width =
      widest_access(reinterpret_cast<uintptr_t>(args.copies.data) | reinterpret_cast<uintptr_t>(args.x.data) |
                    static_cast<uintptr_t>(x_stride | out_stride | num_bytes));
  const LaunchShape shape{.grid = dim3(grid_x(args.copies.shape[0])),
                          .block = dim3(copy_threads(num_bytes, width))};
  visit_width(width, [&](auto w) {
    launch<&gather_kernel<decltype(w)::value>>(
        context, shape, context.site, kBadSource, args.copies.as<std::byte>(), args.x.as<std::byte>(),
        args.source.as<int32_t>(), args.x.shape[0], out_stride, x_stride, num_bytes);
  });
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

int32_t expert_alignment(const ExpertSizes& sizes) {
#if WEFT_HAS_DEEPGEMM
  if (sizes.num_experts > 0 && sizes.dtype == DType::kBF16 && sizes.hidden % 8 == 0 && sizes.inter % 8 == 0) {
    return deepgemm_alignment(sizes.num_experts, sizes.copies / sizes.num_experts);
  }
#endif
  (void)sizes;
  return 1;
}

void expert_ffn(const ExpertFfnArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  if (launch_gate_up(cuda, args)) {
    launch_down(cuda, args);
    return;
  }
  const auto* offsets = args.offsets.as<int32_t>();
  if (args.x.shape[1] > 0) gather(cuda, args);
  grouped_gemm({.out = args.gate_up_out,
                .a = args.copies,
                .w = args.gate_up,
                .offsets = offsets,
                .alignment = args.alignment},
               context);
  silu_mul({.out = args.act, .gate_up = args.gate_up_out, .num_rows = offsets + args.gate_up.shape[0]},
           context);
  grouped_gemm(
      {.out = args.out, .a = args.act, .w = args.down, .offsets = offsets, .alignment = args.alignment},
      context);
}

void expert_ffn_and_combine(const ExpertFfnAndCombineArgs& args, ExecContext& context) {
  const auto& [experts, combine] = args;
  const CudaContext& cuda = cuda_context(context);
  if (!combines_at_once(experts, combine) || !launch_gate_up(cuda, experts)) {
    if (experts.out.numel() > 0 && experts.gate_up.shape[0] > 0) expert_ffn(experts, context);
    moe_unpermute(combine, context);
    return;
  }
  ExpertCombine c{.product = down_gemm(experts),
                  .out = combine.out.data,
                  .out_stride = combine.out.stride[0],
                  .position = combine.position.as<int32_t>(),
                  .weights = combine.weights.as<float>(),
                  .position_stride = combine.position.stride[0],
                  .weights_stride = combine.weights.stride[0],
                  .num_rows = combine.num_rows,
                  .rows = static_cast<int32_t>(combine.position.shape[0]),
                  .top_k = static_cast<int32_t>(combine.position.shape[1])};
  c.product.max_items = kCombineCopies;
  if (experts.x.dtype == DType::kBF16) {
    launch_combine<bf16>(cuda, c);
  } else {
    launch_combine<f16>(cuda, c);
  }
}

void grouped_gemm(const GroupedGemmArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  if (args.offsets != nullptr && is_few_rows(args.out, args.a, args.w, args.alignment) &&
      launch_few_rows<false>(cuda, args.a.dtype,
                             expert_gemm(args.out, args.a, args.w, args.offsets, nullptr))) {
    return;
  }
#if WEFT_HAS_DEEPGEMM
  if (deepgemm_serves(args, cuda)) {
    deepgemm_grouped_gemm(args, cuda);
    return;
  }
#endif
  native_grouped_gemm(args, cuda);
}

}  // namespace weft::ops::cuda

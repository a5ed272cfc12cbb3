// DeepGEMM's grouped product of rows packed by group, from the headers of a wheel. It takes its tiles from
// the ends of the groups in device memory, so its grid is fixed.
#include <cudaTypedefs.h>

#include <deep_gemm/impls/sm90_bf16_gemm.cuh>

#include "kernels/common/launch.cuh"
#include "kernels/common/types.cuh"
#include "kernels/moe/deepgemm.h"

namespace weft::kernels {
namespace {

constexpr int kNumSms = 132;
constexpr int kBlockK = 64;

/// The tile, and the stages that fit into shared memory beside it.
template <int kRows_, int kColumns_, int kStages_>
struct Tile {
  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kStages = kStages_;
  static constexpr int kMathThreads = kRows <= 64 ? 128 : 256;
  static constexpr int kThreads = 128 + kMathThreads;
  static constexpr size_t kSharedBytes =
      (2 * kRows * kColumns + 1023) / 1024 * 1024 + kStages * 128 * (kRows + kColumns) + 16 * kStages;
};
using SmallTile = Tile<64, 128, 8>;
using LargeTile = Tile<128, 256, 3>;  // one TMA copy for both operands; clusters gain nothing

template <int kGroups, class T>
constexpr auto kKernel =
    &deep_gemm::sm90_bf16_gemm_impl<cute::UMMA::Major::K, cute::UMMA::Major::K, 0, 0, 0, kGroups, T::kRows,
                                    T::kColumns, kBlockK, 128, 128, 128, T::kStages, 128, T::kMathThreads, 1,
                                    false, kNumSms, deep_gemm::GemmType::MGroupedContiguousWithPsumLayout,
                                    false, cutlass::bfloat16_t>;

/// Calls f(std::integral_constant<int, groups>). False if no kernel is made for so many.
template <class F>
bool visit_groups(int64_t groups, const F& f) {
  switch (groups) {
    case 8:
      return f(std::integral_constant<int, 8>{});
    case 16:
      return f(std::integral_constant<int, 16>{});
    case 32:
      return f(std::integral_constant<int, 32>{});
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    case 256:
      return f(std::integral_constant<int, 256>{});
    default:
      return false;
  }
}

PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    device::cuda::check_cuda(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
        "cudaGetDriverEntryPointByVersion");
    if (entry == nullptr) device::cuda::refuse_op("grouped_gemm", "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return encode;
}

/// Boxes of [rows, 64 columns] of a bf16 matrix, swizzled by 128 bytes. Columns past the end read as zeros
/// and are not stored.
CUtensorMap tensor_map(const void* data, int64_t columns, int64_t rows, int64_t stride, int box_rows) {
  const cuuint64_t shape[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[] = {kBlockK, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[] = {1, 1};
  CUtensorMap map{};
  const CUresult result =
      tensor_map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), shape,
                           stride_bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) device::cuda::refuse_op("grouped_gemm", "cuTensorMapEncodeTiled failed");
  return map;
}

// TMA wants 16-byte aligned rows.
bool aligned(const device::TensorView& view) {
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0) return false;
  for (int d = 0; d + 1 < view.rank; ++d) {
    if (view.stride[d] % 8 != 0) return false;
  }
  return true;
}

}  // namespace

int32_t deepgemm_alignment(int64_t groups, int64_t mean_rows) {
  if (!visit_groups(groups, [](auto) { return true; }) || mean_rows <= 24) return 1;
  return mean_rows < 96 ? SmallTile::kRows : LargeTile::kRows;
}

bool deepgemm_serves(const ops::GroupedGemmArgs& args, const CudaContext& context) {
  const int64_t n = args.w.shape[1];
  const int64_t k = args.w.shape[2];
  return args.offsets != nullptr &&
         (args.alignment == SmallTile::kRows || args.alignment == LargeTile::kRows) &&
         args.a.dtype == DType::kBF16 && args.out.dtype == DType::kBF16 && aligned(args.out) &&
         aligned(args.a) && aligned(args.w) && args.w.stride[0] == n * args.w.stride[1] && k > 0 &&
         visit_groups(args.w.shape[0], [](auto) { return true; }) && context.num_sms >= kNumSms &&
         device::cuda::device_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
}

void deepgemm_grouped_gemm(const ops::GroupedGemmArgs& args, const CudaContext& context) {
  const int64_t groups = args.w.shape[0];
  const int64_t n = args.w.shape[1];
  const int64_t k = args.w.shape[2];
  const int64_t rows = args.a.shape[0];
  const auto run = [&](auto num_groups, auto tile) {
    using T = decltype(tile);
    const LaunchShape shape{
        .grid = dim3(kNumSms), .block = dim3(T::kThreads), .shared_bytes = T::kSharedBytes};
    launch<kKernel<decltype(num_groups)::value, T>>(
        context, shape, const_cast<int*>(args.offsets + 1), static_cast<uint32_t>(rows),
        static_cast<uint32_t>(n), static_cast<uint32_t>(k),
        tensor_map(args.a.data, k, rows, args.a.stride[0], T::kRows),
        tensor_map(args.w.data, k, n * groups, args.w.stride[1], T::kColumns),
        tensor_map(args.out.data, n, rows, args.out.stride[0], T::kRows));
    return true;
  };
  visit_groups(groups, [&](auto num_groups) {
    return args.alignment == SmallTile::kRows ? run(num_groups, SmallTile{}) : run(num_groups, LargeTile{});
  });
}

}  // namespace weft::kernels

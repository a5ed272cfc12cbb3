#include "ops/kernel_table.h"

#include <string_view>

#include "base/error.h"
#include "ops/cpu/isa.h"
#if WEFT_CUDA
#include "device/cuda/cublas_lt.h"
#endif

namespace weft::ops {
namespace {

/// Who else has kernels, where a build has their headers.
enum class Library : uint8_t { kNone, kFlashInfer, kCublasLt, kDeepGemm };

struct Entry {
  std::string_view op;
  std::string_view cuda;             // the native kernel
  Library library = Library::kNone;  // has a faster one
  std::string_view served = {};      // what of the op it serves
};

constexpr std::string_view kGroupedNative = "moe/expert_gemm.cuh for few rows, gemm/gemm.cu for many";
constexpr std::string_view kGroupedFast =
    "many rows in bf16 of 8, 16, .. 256 experts, on 132 multiprocessors";

constexpr Entry kEntries[] = {
    {"scatter_blocks", "common/step_io.cu"},
    {"embedding", "common/gather.cu"},
    {"rms_norm", "norm/rms_norm.cu"},
    {"add_rms_norm", "norm/rms_norm.cu"},
    {"gemm", "gemm/gemm.cu: tensor cores; f32 without", Library::kCublasLt, "many rows of 16 bits"},
    {"gemm_silu_mul", "gemm/gemm.cu: tensor cores; f32 without", Library::kCublasLt, "many rows of 16 bits"},
    {"batched_gemm", "gemm/gemm.cu: tensor cores; f32 without"},
    {"qk_norm_rope_write", "attention/rope_write.cu"},
    {"mla_norm_rope_write", "attention/rope_write.cu"},
    {"paged_attention", "attention/gqa_{decode,prefill}.cu: heads of 64, 128, 256; else f32 arithmetic",
     Library::kFlashInfer, "prompts in bf16 with heads of 128"},
    {"mla_decode", "attention/mla_decode.cu: latents of 512 + 64; else f32 arithmetic"},
    {"mla_prefill", "attention/attention.cu: f32 arithmetic", Library::kFlashInfer,
     "bf16 with DeepSeek's heads, while its workspace holds a step's keys"},
    {"route", "moe/route.cu"},
    {"group_copies", "moe/group.cu"},
    {"route_and_group", "moe/group.cu"},
    {"moe_permute", "moe/permute.cu"},
    {"expert_ffn", kGroupedNative, Library::kDeepGemm, kGroupedFast},
    {"expert_ffn_and_combine", "as expert_ffn and moe_unpermute; moe/expert_combine.cuh for a few tokens",
     Library::kDeepGemm, kGroupedFast},
    {"grouped_gemm", kGroupedNative, Library::kDeepGemm, kGroupedFast},
    {"silu_mul", "common/elementwise.cu"},
    {"moe_unpermute", "moe/permute.cu"},
    {"add", "common/elementwise.cu"},
    {"cast", "common/elementwise.cu"},
    {"gather_rows", "common/gather.cu"},
    {"sample", "sampling/sample.cu"},
    {"logprobs", "sampling/logprobs.cu"},
    {"fill_padding", "common/fill_padding.cu"},
    {"copy_words", "common/step_io.cu"},
};

std::string_view name_of(Library library) {
  switch (library) {
    case Library::kFlashInfer:
      return "FlashInfer";
    case Library::kCublasLt:
      return "cuBLASLt";
    default:
      return "DeepGEMM";
  }
}

#if WEFT_HAS_FLASHINFER || WEFT_HAS_DEEPGEMM
std::string why_not_hopper(std::string_view library) {
  if (!device::cuda_unavailable_reason().empty()) return {};
  const std::string capability = device::cuda_gpus().front().compute_capability;
  if (capability.front() == '9') return {};
  return fmt::format("{}'s kernels are for Hopper, compute capability 9.0; this is {}", library, capability);
}
#endif

std::string why_not_deepgemm() {
#if WEFT_HAS_DEEPGEMM
  return why_not_hopper("DeepGEMM");
#else
  return "this build lacks the headers of DeepGEMM, which ./dev build fetches (WEFT_DEEPGEMM_DIR)";
#endif
}
std::string why_not_flashinfer() {
#if WEFT_HAS_FLASHINFER
  return why_not_hopper("FlashInfer");
#else
  return "this build lacks the headers of FlashInfer, which ./dev build fetches (WEFT_FLASHINFER_DIR)";
#endif
}
std::string why_not_cublas_lt() {
#if WEFT_CUDA
  return device::cuda::cublas_lt_unavailable_reason();
#else
  return "this build has no CUDA";
#endif
}
/// Why kernels of `library` do not run here; empty if they do, or would if there were a GPU.
std::string why_not(Library library) {
  switch (library) {
    case Library::kFlashInfer:
      return why_not_flashinfer();
    case Library::kCublasLt:
      return why_not_cublas_lt();
    case Library::kDeepGemm:
      return why_not_deepgemm();
    default:
      return {};
  }
}

KernelInfo on_cuda(const Entry& entry) {
  const std::string reason = why_not(entry.library);
  if (entry.library == Library::kNone || !reason.empty()) {
    return {std::string(entry.op), std::string(entry.cuda), reason};
  }
  return {std::string(entry.op),
          fmt::format("{} for {}; else {}", name_of(entry.library), entry.served, entry.cuda), ""};
}

}  // namespace

std::vector<KernelInfo> kernel_table(device::Backend backend) {
  std::vector<KernelInfo> table;
  const std::string_view isa = cpu::isa_name(cpu::best_isa());
  for (const Entry& entry : kEntries) {
    if (backend == device::Backend::kCuda) {
      table.push_back(on_cuda(entry));
      continue;
    }
    const bool best = cpu::best_isa() == cpu::Isa::kAvx512Bf16;
    table.push_back(
        {std::string(entry.op), fmt::format("ops/cpu, {}", isa),
         best ? "" : fmt::format("this machine has no {}", cpu::isa_name(cpu::Isa::kAvx512Bf16))});
  }
  return table;
}

}  // namespace weft::ops

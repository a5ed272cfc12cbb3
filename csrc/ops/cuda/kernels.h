#pragma once

#include "ops/attention.h"
#include "ops/copy_words.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/experts.h"
#include "ops/fill_padding.h"
#include "ops/gemm.h"
#include "ops/moe.h"
#include "ops/rms_norm.h"
#include "ops/rope_write.h"
#include "ops/sampling.h"
#include "ops/scatter_blocks.h"

/// What a CUDA device runs for each op: host functions that launch kernels (kernels/) on the context's
/// stream. Shapes and dtypes have been checked by the op; what only device memory tells is checked by the
/// kernels. None allocates, synchronises or reads device memory, so each can be captured.
namespace weft::ops::cuda {

using device::ExecContext;

void embedding(const EmbeddingArgs& args, ExecContext& context);
void gather_rows(const GatherRowsArgs& args, ExecContext& context);
void rms_norm(const RmsNormArgs& args, ExecContext& context);
void add_rms_norm(const AddRmsNormArgs& args, ExecContext& context);
void add(const AddArgs& args, ExecContext& context);
void cast(const CastArgs& args, ExecContext& context);
void silu_mul(const SiluMulArgs& args, ExecContext& context);
void qk_norm_rope_write(const QkNormRopeWriteArgs& args, ExecContext& context);
void mla_norm_rope_write(const MlaNormRopeWriteArgs& args, ExecContext& context);
void gemm(const GemmArgs& args, ExecContext& context);
void gemm_silu_mul(const GemmSiluMulArgs& args, ExecContext& context);
void batched_gemm(const BatchedGemmArgs& args, ExecContext& context);
void grouped_gemm(const GroupedGemmArgs& args, ExecContext& context);
void paged_attention(const PagedAttentionArgs& args, ExecContext& context);
int64_t prefill_plan_size(int64_t max_tokens, int64_t max_seqs);
void plan_prefill(const PrefillPlanArgs& args, ExecContext& context);
void mla_decode(const MlaDecodeArgs& args, ExecContext& context);
void mla_prefill(const MlaPrefillArgs& args, ExecContext& context);
void route(const RouteArgs& args, ExecContext& context);
int32_t expert_alignment(const ExpertSizes& sizes);
void group_copies(const GroupArgs& args, ExecContext& context);
void route_and_group(const RouteAndGroupArgs& args, ExecContext& context);
void expert_ffn(const ExpertFfnArgs& args, ExecContext& context);
void expert_ffn_and_combine(const ExpertFfnAndCombineArgs& args, ExecContext& context);
void moe_permute(const PermuteArgs& args, ExecContext& context);
void moe_unpermute(const UnpermuteArgs& args, ExecContext& context);
void sample(const SampleArgs& args, ExecContext& context);
void logprobs(const LogprobArgs& args, ExecContext& context);
void scatter_blocks(const ScatterBlocksArgs& args, ExecContext& context);
void copy_words(const CopyWordsArgs& args, ExecContext& context);
void fill_padding(const FillPaddingArgs& args, ExecContext& context);

#if WEFT_HAS_FLASHINFER
/// True if the current GPU is one that FlashInfer's kernels are for: a Hopper.
bool flashinfer_runs_here();
int64_t mla_prefill_workspace(int64_t num_kv_tokens, int64_t heads, int64_t kv_lora_rank);
#endif

}  // namespace weft::ops::cuda

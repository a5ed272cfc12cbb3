#pragma once

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gemm.h"
#include "ops/kv_write.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

/// What the CPU runs for each op. Shapes and dtypes have been checked by the op; arguments are as its header
/// says, in host memory.
namespace weft::ops::cpu {

using device::ExecContext;

void embedding(const EmbeddingArgs& args, ExecContext& context);
void gather_rows(const GatherRowsArgs& args, ExecContext& context);
void rms_norm(const RmsNormArgs& args, ExecContext& context);
void add_rms_norm(const AddRmsNormArgs& args, ExecContext& context);
void add(const AddArgs& args, ExecContext& context);
void cast(const CastArgs& args, ExecContext& context);
void silu_mul(const SiluMulArgs& args, ExecContext& context);
void rope(const RopeArgs& args, ExecContext& context);
void kv_write(const KvWriteArgs& args, ExecContext& context);
void gemm(const GemmArgs& args, ExecContext& context);
void batched_gemm(const BatchedGemmArgs& args, ExecContext& context);
void grouped_gemm(const GroupedGemmArgs& args, ExecContext& context);

}  // namespace weft::ops::cpu

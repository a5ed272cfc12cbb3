#pragma once

#include <cstdint>

#include "kernels/common/launch.cuh"
#include "ops/attention.h"

/// Attention on tensor cores, for the dtypes, widths and strides that it takes; attention.cu chooses.
namespace weft::kernels {

constexpr float kLog2E = 1.44269504F;

/// True if a batch's numbers are as small as the decode kernels want them.
bool decode_batch_serves(const ops::SequenceBatch& batch);

/// True if the two kernels below take such arguments: bf16 or f16 throughout, heads of 64, 128 or 256
/// columns, rows that can be read 16 bytes at a time, a positive scale.
bool fast_gqa_serves(const ops::PagedAttentionArgs& args);
/// Sequences [first_seq, num_seqs), on devices with clusters. Right for any number of query rows, fast if a
/// sequence has few.
void gqa_decode(const CudaContext& context, const ops::PagedAttentionArgs& args, int32_t first_seq);
/// Sequences [first_seq, min(end_seq, num_seqs)). Right for any number of query rows, fast if a sequence has
/// many.
void gqa_prefill(const CudaContext& context, const ops::PagedAttentionArgs& args, int32_t first_seq,
                 int32_t end_seq);

/// True if mla_decode, which is for devices with clusters, takes such arguments: bf16 or f16 throughout,
/// latents of 512 + 64 columns, rows that can be read 16 bytes at a time.
bool mla_decode_serves(const ops::MlaDecodeArgs& args);
/// Right for any number of query rows, but reads a sequence's latents once for each of them.
void mla_decode(const CudaContext& context, const ops::MlaDecodeArgs& args);

}  // namespace weft::kernels

#include "exec/inputs.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/math.h"
#include "ops/scatter_blocks.h"

namespace weft::exec {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kI32 = sizeof(int32_t);
constexpr int64_t kSamplingRowWords = sizeof(ops::SamplingRow) / kI32;

}  // namespace

plan::RowSlice own_rows(const plan::MicroBatchPlan& batch, const plan::ParallelConfig& parallel, int rank) {
  const auto dp_rank = static_cast<size_t>(parallel.attn_dp_rank(rank));
  const int64_t rows = batch.rows[dp_rank];
  const int attn_tp = parallel.attn_tp_size();
  if (rows % attn_tp != 0) return {};
  return plan::scattered_rows(batch.num_tokens[dp_rank], rows, attn_tp, parallel.attn_tp_rank(rank));
}

InputLayout::InputLayout(const InputSizes& input_sizes) : sizes(input_sizes) {
  sizes.max_pages = round_up(sizes.max_pages, InputImage::kBlock);
  const auto take = [this](int64_t bytes) {
    const int64_t offset = num_bytes;
    num_bytes += round_up(bytes, kAlignment);
    return offset;
  };
  for (auto& mb : micro_batches) {
    mb.header = take((kSegments + 2 * sizes.attn_dp_size) * kI32);
    mb.ids = take(sizes.max_tokens * kI32);
    mb.positions = take(sizes.max_tokens * kI32);
    mb.slots = take(sizes.max_tokens * kI32);
    mb.cu_q = take((sizes.max_seqs + 1) * kI32);
    mb.kv_len = take(sizes.max_seqs * kI32);
    mb.page_table = take(sizes.max_seqs * sizes.max_pages * kI32);
    mb.order = take(sizes.max_seqs * kI32);
  }
  logit_index = take(sizes.max_logit_rows * kI32);
  logit_slot = take(sizes.max_logit_rows * kI32);
  logit_wanted = take(sizes.max_logit_rows * kI32);
  logit_top = take(sizes.max_logit_rows * kI32);
  logit_params = take(sizes.max_logit_rows * static_cast<int64_t>(sizeof(ops::SamplingRow)));
  logit_counts = take(sizes.max_logit_passes * kI32);
}

InputBuffers::InputBuffers(device::Device& device, const InputLayout& layout, void* device_block)
    : layout_(layout), device_(device_block), image_(layout.num_bytes) {
  for (auto& staging : staging_) {
    staging = device.allocate_host(static_cast<size_t>(image_.num_blocks() * (InputImage::kBlock + 1) * kI32),
                                   "input_staging");
  }
}

void InputBuffers::clear(device::Stream& stream) {
  stream.fill(device_, 0, static_cast<size_t>(layout_.num_bytes));
}

device::TensorView InputBuffers::i32(int64_t offset, int64_t count) const {
  return device::make_view(static_cast<char*>(device_) + offset, DType::kI32, {count});
}

ops::SequenceBatch InputBuffers::sequences(int micro_batch, int64_t max_seqs, int64_t page_size) const {
  const auto& mb = layout_.micro_batches[static_cast<size_t>(micro_batch)];
  return {.cu_q = device_i32(mb.cu_q),
          .kv_len = device_i32(mb.kv_len),
          .page_table = device_i32(mb.page_table),
          .num_seqs = device_i32(mb.header) + InputLayout::kNumSeqs,
          .order = device_i32(mb.order),
          .max_seqs = static_cast<int32_t>(max_seqs),
          .page_table_stride = static_cast<int32_t>(layout_.sizes.max_pages),
          .page_size = static_cast<int32_t>(page_size)};
}

void InputBuffers::upload(device::Stream& stream, int turn, const plan::StepPlan& plan,
                          const ExecConfig& config, int rank, const ForwardInput& input) {
  check(plan, config, rank, input);
  auto* blocks = static_cast<int32_t*>(staging_[static_cast<size_t>(turn)].data());
  auto* indices = blocks + image_.num_blocks() * InputImage::kBlock;
  image_.begin(blocks, indices);
  for (size_t m = 0; m < plan.micro_batches.size(); ++m) {
    put_micro_batch(static_cast<int>(m), plan.micro_batches[m], config, rank, input.micro_batches[m]);
  }
  put_logit_rows(plan, config, rank, input);
  const int64_t n = image_.num_changed();
  ops::scatter_blocks(
      stream, {.out = device::make_view(device_, DType::kI32, {image_.num_blocks(), InputImage::kBlock}),
               .x = device::make_view(blocks, DType::kI32, {n, InputImage::kBlock}),
               .indices = device::make_view(indices, DType::kI32, {n})});
}

void InputBuffers::check(const plan::StepPlan& plan, const ExecConfig& config, int rank,
                         const ForwardInput& input) const {
  const auto dp_rank = static_cast<size_t>(config.plan.parallel.attn_dp_rank(rank));
  const auto& sizes = layout_.sizes;
  for (size_t m = 0; m < plan.micro_batches.size(); ++m) {
    const auto& planned = plan.micro_batches[m];
    const int64_t n = input.micro_batches[m].num_tokens();
    const int64_t seqs = input.micro_batches[m].num_seqs();
    const int64_t rows = planned.rows[dp_rank];
    WEFT_CHECK(
        n == planned.num_tokens[dp_rank] && n <= rows && rows <= sizes.max_tokens && seqs <= sizes.max_seqs,
        "step {}: micro-batch {} of DP rank {} has {} tokens and {} sequences; the plan says {} tokens in {} "
        "rows, and the buffers hold {} and {}",
        plan.step_id, m, dp_rank, n, seqs, planned.num_tokens[dp_rank], rows, sizes.max_tokens,
        sizes.max_seqs);
  }
  const auto real = static_cast<int64_t>(input.logit_rows.size());
  const int64_t rows = plan.logit_rows[dp_rank];
  WEFT_CHECK(real <= rows && rows <= sizes.max_logit_rows,
             "step {}: DP rank {} wants {} logit rows of {} planned", plan.step_id, dp_rank, real, rows);
}

void InputBuffers::put_micro_batch(int index, const plan::MicroBatchPlan& planned, const ExecConfig& config,
                                   int rank, const MicroBatchInput& in) {
  const auto& parallel = config.plan.parallel;
  const auto& sizes = layout_.sizes;
  const auto& to = layout_.micro_batches[static_cast<size_t>(index)];
  const int64_t n = in.num_tokens();
  const int64_t seqs = in.num_seqs();
  const int64_t rows = planned.rows[static_cast<size_t>(parallel.attn_dp_rank(rank))];

  const auto own = static_cast<int32_t>(own_rows(planned, parallel, rank).real);
  const int32_t counts[] = {static_cast<int32_t>(seqs), static_cast<int32_t>(n), own, 0};
  image_.put(to.header, InputLayout::kSegments + 2 * sizes.attn_dp_size, [&](int64_t i) {
    if (i < InputLayout::kSegments) return counts[i];
    const int64_t d = i - InputLayout::kSegments;
    return static_cast<int32_t>(d < sizes.attn_dp_size
                                    ? planned.start[static_cast<size_t>(d)]
                                    : planned.num_tokens[static_cast<size_t>(d - sizes.attn_dp_size)]);
  });
  const auto put_rows = [&](int64_t offset, const std::vector<int32_t>& values, int32_t padding) {
    image_.put(offset, rows, [&](int64_t i) { return i < n ? values[static_cast<size_t>(i)] : padding; });
  };
  put_rows(to.ids, in.ids, 0);
  put_rows(to.positions, in.positions, 0);
  put_rows(to.slots, in.kv_slots, -1);
  if (seqs == 0) {
    image_.put(to.cu_q, 1, [](int64_t) { return 0; });
  } else {
    image_.put(to.cu_q, in.cu_q);
  }
  image_.put(to.kv_len, in.kv_len);
  const int32_t* pages = in.pages.data();
  for (int64_t s = 0; s < seqs; ++s) {
    const int64_t count = ceil_div<int64_t>(in.kv_len[static_cast<size_t>(s)], config.page_size);
    image_.put(to.page_table + s * sizes.max_pages * kI32, {pages, static_cast<size_t>(count)});
    pages += count;
  }

  // The longest of the decode sequences first, so that none is begun when the others are about to end.
  order_.clear();
  for (int64_t s = 0; s < seqs; ++s) {
    const auto kv_len = static_cast<uint32_t>(in.kv_len[static_cast<size_t>(s)]);
    order_.push_back(uint64_t{~kv_len} << 32 | static_cast<uint64_t>(s));
  }
  std::sort(order_.begin() + in.num_prefill_seqs, order_.end());
  image_.put(to.order, seqs, [&](int64_t i) { return static_cast<int32_t>(order_[static_cast<size_t>(i)]); });
}

void InputBuffers::put_logit_rows(const plan::StepPlan& plan, const ExecConfig& config, int rank,
                                  const ForwardInput& input) {
  const auto& parallel = config.plan.parallel;
  const auto dp_rank = static_cast<size_t>(parallel.attn_dp_rank(rank));
  const auto real = static_cast<int64_t>(input.logit_rows.size());
  const int64_t rows = plan.logit_rows[dp_rank];
  const LogitRow padding;
  const auto row_at = [&](int64_t i) -> const LogitRow& {
    return i < real ? input.logit_rows[static_cast<size_t>(i)] : padding;
  };
  // Where a row of a micro-batch is among the final hidden states.
  image_.put(layout_.logit_index, rows, [&](int64_t i) -> int32_t {
    if (i >= real) return -1;
    const LogitRow& row = row_at(i);
    if (plan.layernorm_sp) {
      const auto own = own_rows(plan.micro_batches[static_cast<size_t>(row.micro_batch)], parallel, rank);
      if (row.row < own.begin || row.row >= own.end) return -1;
    }
    return row.row + (row.micro_batch == 0 ? 0 : static_cast<int32_t>(plan.micro_batches[0].rows[dp_rank]));
  });
  image_.put(layout_.logit_slot, rows, [&](int64_t i) { return row_at(i).slot; });
  image_.put(layout_.logit_wanted, rows,
             [&](int64_t i) { return row_at(i).want_logprob ? row_at(i).target : -2; });
  image_.put(layout_.logit_top, rows, [&](int64_t i) { return row_at(i).num_top; });
  for (int64_t i = 0; i < rows; ++i) {
    ops::SamplingRow params = row_at(i).sampling;
    if (row_at(i).slot < 0) params.temperature = 0.0F;  // nothing is drawn
    image_.put(layout_.logit_params + i * static_cast<int64_t>(sizeof(params)),
               {reinterpret_cast<const int32_t*>(&params), kSamplingRowWords});
  }
  const int64_t limit = config.plan.logit_chunk_rows;
  image_.put(layout_.logit_counts, plan.logit_chunks, [&](int64_t pass) {
    return static_cast<int32_t>(std::clamp<int64_t>(real - pass * limit, 0, limit));
  });
}

}  // namespace weft::exec

#include "exec/inputs.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/math.h"

namespace weft::exec {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kI32 = sizeof(int32_t);

}  // namespace

plan::RowSlice own_rows(const plan::MicroBatchPlan& batch, const plan::ParallelConfig& parallel, int rank) {
  const auto dp_rank = static_cast<size_t>(parallel.attn_dp_rank(rank));
  const int64_t rows = batch.rows[dp_rank];
  const int attn_tp = parallel.attn_tp_size();
  if (rows % attn_tp != 0) return {};
  return plan::scattered_rows(batch.num_tokens[dp_rank], rows, attn_tp, parallel.attn_tp_rank(rank));
}

InputLayout::InputLayout(const InputSizes& input_sizes) : sizes(input_sizes) {
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
  }
  logit_index = take(sizes.max_logit_rows * kI32);
  logit_slot = take(sizes.max_logit_rows * kI32);
  logit_wanted = take(sizes.max_logit_rows * kI32);
  logit_top = take(sizes.max_logit_rows * kI32);
  logit_params = take(sizes.max_logit_rows * static_cast<int64_t>(sizeof(ops::SamplingRow)));
  logit_counts = take(sizes.max_logit_passes * kI32);
}

InputBuffers::InputBuffers(device::Device& device, const InputLayout& layout, void* device_block)
    : layout_(layout), device_(device_block) {
  for (auto& staging : staging_) {
    staging = device.allocate_host(static_cast<size_t>(layout.num_bytes), "input_staging");
  }
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
          .max_seqs = static_cast<int32_t>(max_seqs),
          .page_table_stride = static_cast<int32_t>(layout_.sizes.max_pages),
          .page_size = static_cast<int32_t>(page_size)};
}

void InputBuffers::copy(device::Stream& stream, int turn, int64_t offset, int64_t num_bytes) const {
  if (num_bytes == 0) return;
  stream.copy(static_cast<char*>(device_) + offset,
              static_cast<const char*>(staging_[static_cast<size_t>(turn)].data()) + offset,
              static_cast<size_t>(num_bytes));
}

void InputBuffers::upload(device::Stream& stream, int turn, const plan::StepPlan& plan,
                          const ExecConfig& config, int rank, const ForwardInput& input) {
  char* host = static_cast<char*>(staging_[static_cast<size_t>(turn)].data());
  const auto at = [host](int64_t offset) { return reinterpret_cast<int32_t*>(host + offset); };
  const auto& parallel = config.plan.parallel;
  const auto dp_rank = static_cast<size_t>(parallel.attn_dp_rank(rank));
  const auto& sizes = layout_.sizes;

  for (size_t m = 0; m < plan.micro_batches.size(); ++m) {
    const auto& planned = plan.micro_batches[m];
    const auto& in = input.micro_batches[m];
    const auto& to = layout_.micro_batches[m];
    const int64_t n = in.num_tokens();
    const int64_t seqs = in.num_seqs();
    const int64_t rows = planned.rows[dp_rank];
    WEFT_CHECK(
        n == planned.num_tokens[dp_rank] && n <= rows && rows <= sizes.max_tokens && seqs <= sizes.max_seqs,
        "step {}: micro-batch {} of DP rank {} has {} tokens and {} sequences; the plan says {} tokens in {} "
        "rows, and the buffers hold {} and {}",
        plan.step_id, m, dp_rank, n, seqs, planned.num_tokens[dp_rank], rows, sizes.max_tokens,
        sizes.max_seqs);
    auto* header = at(to.header);
    header[InputLayout::kNumSeqs] = static_cast<int32_t>(seqs);
    header[InputLayout::kRows] = static_cast<int32_t>(n);
    header[InputLayout::kScatteredRows] = static_cast<int32_t>(own_rows(planned, parallel, rank).real);
    header[InputLayout::kZero] = 0;
    for (int64_t d = 0; d < sizes.attn_dp_size; ++d) {
      const auto i = static_cast<size_t>(d);
      header[InputLayout::kSegments + d] = static_cast<int32_t>(planned.start[i]);
      header[InputLayout::kSegments + sizes.attn_dp_size + d] = static_cast<int32_t>(planned.num_tokens[i]);
    }
    const auto put = [&](int64_t offset, const std::vector<int32_t>& values, int32_t padding) {
      std::copy(values.begin(), values.end(), at(offset));
      std::fill(at(offset) + n, at(offset) + rows, padding);
      copy(stream, turn, offset, rows * kI32);
    };
    put(to.ids, in.ids, 0);
    put(to.positions, in.positions, 0);
    put(to.slots, in.kv_slots, -1);
    if (seqs == 0) {
      at(to.cu_q)[0] = 0;
    } else {
      std::copy(in.cu_q.begin(), in.cu_q.end(), at(to.cu_q));
    }
    std::copy(in.kv_len.begin(), in.kv_len.end(), at(to.kv_len));
    const int32_t* pages = in.pages.data();
    for (int64_t s = 0; s < seqs; ++s) {
      const int64_t count = ceil_div<int64_t>(in.kv_len[static_cast<size_t>(s)], config.page_size);
      std::copy_n(pages, count, at(to.page_table) + s * sizes.max_pages);
      pages += count;
    }
    copy(stream, turn, to.header, (InputLayout::kSegments + 2 * sizes.attn_dp_size) * kI32);
    copy(stream, turn, to.cu_q, (seqs + 1) * kI32);
    copy(stream, turn, to.kv_len, seqs * kI32);
    copy(stream, turn, to.page_table, seqs * sizes.max_pages * kI32);
  }

  const auto real = static_cast<int64_t>(input.logit_rows.size());
  const int64_t rows = plan.logit_rows[dp_rank];
  WEFT_CHECK(real <= rows && rows <= sizes.max_logit_rows,
             "step {}: DP rank {} wants {} logit rows of {} planned", plan.step_id, dp_rank, real, rows);
  // Where a row of a micro-batch is among the final hidden states.
  const auto final_row = [&](const LogitRow& row) -> int64_t {
    const auto& planned = plan.micro_batches[static_cast<size_t>(row.micro_batch)];
    if (plan.layernorm_sp) {
      const auto own = own_rows(planned, parallel, rank);
      if (row.row < own.begin || row.row >= own.end) return -1;
    }
    return row.row + (row.micro_batch == 0 ? 0 : plan.micro_batches[0].rows[dp_rank]);
  };
  auto* params = reinterpret_cast<ops::SamplingRow*>(host + layout_.logit_params);
  for (int64_t i = 0; i < rows; ++i) {
    const LogitRow row = i < real ? input.logit_rows[static_cast<size_t>(i)] : LogitRow{};
    at(layout_.logit_index)[i] = i < real ? static_cast<int32_t>(final_row(row)) : -1;
    at(layout_.logit_slot)[i] = row.slot;
    at(layout_.logit_wanted)[i] = !row.want_logprob ? -2 : row.target;
    at(layout_.logit_top)[i] = row.num_top;
    params[i] = row.sampling;
    if (row.slot < 0) params[i].temperature = 0.0F;  // nothing is drawn
  }
  for (int64_t pass = 0; pass < plan.logit_chunks; ++pass) {
    const int64_t done = pass * config.plan.logit_chunk_rows;
    at(layout_.logit_counts)[pass] =
        static_cast<int32_t>(std::clamp<int64_t>(real - done, 0, config.plan.logit_chunk_rows));
  }
  copy(stream, turn, layout_.logit_index, rows * kI32);
  copy(stream, turn, layout_.logit_slot, rows * kI32);
  copy(stream, turn, layout_.logit_wanted, rows * kI32);
  copy(stream, turn, layout_.logit_top, rows * kI32);
  copy(stream, turn, layout_.logit_params, rows * static_cast<int64_t>(sizeof(ops::SamplingRow)));
  copy(stream, turn, layout_.logit_counts, plan.logit_chunks * kI32);
}

}  // namespace weft::exec

#include "runtime/rank_batch.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/math.h"
#include "plan/splitter.h"

namespace weft::runtime {
namespace {

void add_wanted_rows(RankBatch& batch, const Request& request, const SequenceRows& rows) {
  const auto seq = static_cast<int32_t>(batch.seqs.size());
  const int64_t end = rows.start + rows.num_tokens;
  // The row of position p tells of the prompt token p + 1; nothing precedes token 0.
  if (!rows.decode && request.logprob_start >= 0) {
    const int64_t first = std::max<int64_t>(request.logprob_start, 1) - 1;
    for (int64_t p = std::max(rows.start, first); p < std::min(end, request.prompt_len() - 1); ++p) {
      batch.wanted.push_back(
          {.seq = seq, .token = batch.num_tokens + p - rows.start, .input_position = p + 1});
    }
  }
  if (end >= request.prompt_len()) {
    batch.wanted.push_back({.seq = seq, .token = batch.num_tokens + rows.num_tokens - 1});
  }
}

void add(RankBatch& batch, RequestTable& table, const SequenceRows& rows) {
  const Request& request = table.at(rows.slot);
  add_wanted_rows(batch, request, rows);
  batch.seqs.push_back(rows);
  batch.num_tokens += rows.num_tokens;
  table.schedule(rows.slot, rows.num_tokens, rows.start + rows.num_tokens >= request.prompt_len());
}

void append_sequence(const SequenceRows& rows, int64_t begin, int64_t count, const Request& request,
                     const RequestTable& table, exec::MicroBatchInput& out) {
  const int64_t start = rows.start + begin;
  for (int64_t p = start; p < start + count; ++p) {
    out.ids.push_back(rows.decode ? -(rows.slot + 1) : request.prompt[static_cast<size_t>(p)]);
    out.positions.push_back(static_cast<int32_t>(p));
    out.kv_slots.push_back(table.kv_slot(request, p));
  }
  const int64_t kv_len = start + count;
  const int64_t num_pages = ceil_div(kv_len, table.limits().page_size);
  out.pages.insert(out.pages.end(), request.pages.begin(), request.pages.begin() + num_pages);
  out.cu_q.push_back(static_cast<int32_t>(out.num_tokens()));
  out.kv_len.push_back(static_cast<int32_t>(kv_len));
  if (!rows.decode) ++out.num_prefill_seqs;
}

void clear(exec::MicroBatchInput& input) {
  input.ids.clear();
  input.positions.clear();
  input.kv_slots.clear();
  input.cu_q.assign(1, 0);
  input.kv_len.clear();
  input.pages.clear();
  input.num_prefill_seqs = 0;
}

exec::LogitRow make_logit_row(const RankBatch& batch, const WantedRow& wanted, const RequestTable& table,
                              int64_t first_tokens) {
  const SequenceRows& rows = batch.seqs[static_cast<size_t>(wanted.seq)];
  const Request& request = table.at(rows.slot);
  const bool second = wanted.token >= first_tokens;
  exec::LogitRow row;
  row.micro_batch = second ? 1 : 0;
  row.row = static_cast<int32_t>(second ? wanted.token - first_tokens : wanted.token);
  if (wanted.input_position >= 0) {
    row.target = request.prompt[static_cast<size_t>(wanted.input_position)];
    row.want_logprob = true;
    row.num_top = request.num_top;
  } else {
    row.slot = rows.slot;
    row.want_logprob = request.return_logprob;
    row.num_top = request.return_logprob ? request.num_top : 0;
    row.sampling = request.sampling;
    row.sampling.position = rows.start + rows.num_tokens;
  }
  return row;
}

}  // namespace

plan::ForwardMode RankBatch::mode() const {
  if (seqs.empty()) return plan::ForwardMode::kIdle;
  if (num_prefills == 0) return plan::ForwardMode::kDecode;
  return num_decodes() == 0 ? plan::ForwardMode::kExtend : plan::ForwardMode::kMixed;
}

void RankBatch::clear() {
  seqs.clear();
  wanted.clear();
  num_tokens = 0;
  num_prefills = 0;
}

void add_prefill(RankBatch& batch, RequestTable& table, int32_t slot, int64_t count) {
  const Request& request = table.at(slot);
  WEFT_CHECK(count > 0 && request.num_scheduled + count <= request.prompt_len(),
             "request {}: a chunk of {} tokens, but {} of the prompt's {} are left", request.rid, count,
             std::max<int64_t>(0, request.prompt_len() - request.num_scheduled), request.prompt_len());
  add(batch, table, {.slot = slot, .start = request.num_scheduled, .num_tokens = count});
  ++batch.num_prefills;
}

void add_decodes(RankBatch& batch, RequestTable& table) {
  table.sweep_running();
  // Prompts that end in this step have just come to the end of running(); their token does not exist yet.
  const auto is_prefilled_now = [&](int32_t slot) {
    return std::any_of(batch.seqs.begin(), batch.seqs.begin() + batch.num_prefills,
                       [&](const SequenceRows& rows) { return rows.slot == slot; });
  };
  for (const int32_t slot : table.running()) {
    if (batch.num_prefills > 0 && is_prefilled_now(slot)) continue;
    add(batch, table, {.slot = slot, .start = table.at(slot).num_scheduled, .num_tokens = 1, .decode = true});
  }
}

plan::RankState make_rank_state(const RankBatch& batch, const StateArgs& args) {
  plan::RankState state;
  state.step_id = args.step_id;
  state.config_hash = args.config_hash;
  state.trace_hash = args.trace_hash;
  state.mode = batch.mode();
  state.num_tokens = batch.num_tokens;
  state.num_seqs = static_cast<int64_t>(batch.seqs.size());
  state.num_logit_rows = static_cast<int64_t>(batch.wanted.size());
  if (!args.overlap || batch.seqs.empty()) return state;

  std::vector<int64_t> extend_lens, prefix_lens, seq_lens;
  for (const SequenceRows& rows : batch.seqs) {
    extend_lens.push_back(rows.num_tokens);
    prefix_lens.push_back(rows.start);
    seq_lens.push_back(rows.start + rows.num_tokens);
  }
  plan::SplitInput split_input;
  split_input.mode = state.mode;
  split_input.num_tokens = batch.num_tokens;
  split_input.seq_lens = seq_lens;
  split_input.threshold = args.split_threshold;
  split_input.attn_tp_size = args.attn_tp_size;
  if (state.mode != plan::ForwardMode::kDecode) {
    split_input.extend_lens = extend_lens;
    split_input.prefix_lens = prefix_lens;
  }
  if (state.mode == plan::ForwardMode::kMixed) split_input.mix_decode_bs = batch.num_decodes();
  std::string why;
  const std::optional<plan::Split> split = plan::split(split_input, &why);
  state.can_split = split ? 1 : 0;
  state.split_tokens[0] = split ? split->children[0].num_tokens : batch.num_tokens;
  state.split_tokens[1] = batch.num_tokens - state.split_tokens[0];
  return state;
}

void fill_forward_input(const RankBatch& batch, const RequestTable& table, int64_t first_tokens,
                        exec::ForwardInput& input) {
  for (exec::MicroBatchInput& micro_batch : input.micro_batches) clear(micro_batch);
  int64_t token = 0;
  for (const SequenceRows& rows : batch.seqs) {
    const Request& request = table.at(rows.slot);
    const int64_t first = std::clamp<int64_t>(first_tokens - token, 0, rows.num_tokens);
    if (first > 0) append_sequence(rows, 0, first, request, table, input.micro_batches[0]);
    if (first < rows.num_tokens) {
      append_sequence(rows, first, rows.num_tokens - first, request, table, input.micro_batches[1]);
    }
    token += rows.num_tokens;
  }
  input.logit_rows.clear();
  for (const WantedRow& wanted : batch.wanted) {
    input.logit_rows.push_back(make_logit_row(batch, wanted, table, first_tokens));
  }
}

}  // namespace weft::runtime

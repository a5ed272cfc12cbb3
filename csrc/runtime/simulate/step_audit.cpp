#include "runtime/simulate/step_audit.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/math.h"

namespace weft::runtime::simulate {

StepAudit::StepAudit(const exec::ExecConfig& config)
    : config_(config), dp_ranks_(static_cast<size_t>(config.plan.parallel.attn_dp_size())) {
  for (DpRank& rank : dp_ranks_) {
    rank.pages.resize(static_cast<size_t>(config.num_pages));
    rank.generations.resize(static_cast<size_t>(config.max_seqs), -1);
    rank.last_steps.resize(static_cast<size_t>(config.max_seqs), 0);
    rank.next_position.resize(static_cast<size_t>(config.max_seqs), 0);
    rank.slot_pages.resize(static_cast<size_t>(config.max_seqs));
  }
}

void StepAudit::pushed(const Step& step) {
  check_plan(step);
  check_capacity(step);
  for (size_t d = 0; d < dp_ranks_.size(); ++d) {
    check_rows(step, d);
    check_logit_rows(step, d);
  }
}

void StepAudit::check_plan(const Step& step) const {
  const plan::StepPlan& plan = step.plan;
  WEFT_CHECK(plan.step_id == step.id && plan.run, "step {}: its plan is of step {}, to be run: {}", step.id,
             plan.step_id, plan.run);
  for (size_t d = 0; d < dp_ranks_.size(); ++d) {
    int64_t tokens = 0;
    for (const auto& batch : plan.micro_batches) {
      tokens += batch.num_tokens[d];
      check_padding(step, batch, d);
    }
    WEFT_CHECK(tokens == step.batches[d].num_tokens,
               "step {}: DP rank {} has {} tokens, its micro-batches {}", step.id, d,
               step.batches[d].num_tokens, tokens);
  }
}

void StepAudit::check_padding(const Step& step, const plan::MicroBatchPlan& batch, size_t d) const {
  const plan::PlanConfig& plan_config = config_.plan;
  const int64_t tokens = batch.num_tokens[d];
  const int64_t rows = batch.rows[d];
  const int64_t multiple =
      step.plan.layernorm_sp ? plan_config.parallel.attn_tp_size() : plan_config.row_alignment();
  WEFT_CHECK(tokens <= rows && rows % multiple == 0,
             "step {}: DP rank {} has {} rows for {} tokens, in multiples of {}", step.id, d, rows, tokens,
             multiple);
  const int64_t bucket = step.plan.graph_bucket[d];
  if (bucket > 0) {
    // The next smaller bucket would not have held the largest batch that shares this one.
    const auto& buckets = plan_config.graph_buckets;
    const auto found = std::find(buckets.begin(), buckets.end(), bucket);
    const auto num_batches = static_cast<int64_t>(step.plan.micro_batches.size());
    WEFT_CHECK(found != buckets.end() && rows * num_batches == bucket,
               "step {}: DP rank {} replays {} with {} rows in each of {} micro-batches", step.id, d, bucket,
               rows, num_batches);
    const int64_t smaller = found == buckets.begin() ? 0 : *std::prev(found);
    int64_t largest = step.batches[d].num_tokens;
    if (plan_config.parallel.require_mlp_tp_gather()) {
      for (const RankBatch& other : step.batches) largest = std::max(largest, other.num_tokens);
    }
    WEFT_CHECK(largest > smaller || (largest == 0 && smaller == 0),
               "step {}: DP rank {} replays bucket {}, but {} would hold {} tokens", step.id, d, bucket,
               smaller, largest);
    return;
  }
  if (batch.padding != plan::PaddingMode::kMaxLen) {
    WEFT_CHECK(rows < tokens + multiple, "step {}: DP rank {} pads {} tokens to {} rows", step.id, d, tokens,
               rows);
    return;
  }
  // Padding to the largest at most doubles the rows.
  const auto aligned = [&](int64_t count) { return round_up(count, multiple); };
  int64_t largest = 0, sum = 0;
  for (const int64_t count : batch.num_tokens) {
    largest = std::max(largest, aligned(count));
    sum += aligned(count);
  }
  WEFT_CHECK(rows == largest && batch.gathered_rows <= 2 * sum,
             "step {}: DP rank {} has {} rows, the largest needs {}; {} gathered rows for {}", step.id, d,
             rows, largest, batch.gathered_rows, sum);
}

void StepAudit::check_capacity(const Step& step) const {
  const plan::StepPlan& plan = step.plan;
  const auto& buckets = config_.plan.graph_buckets;
  const int64_t attn_tp = config_.plan.parallel.attn_tp_size();
  const int64_t capacity =
      round_up(std::max(config_.max_tokens, buckets.empty() ? 0 : buckets.back()), attn_tp);
  for (const auto& batch : plan.micro_batches) {
    const int64_t sum = std::accumulate(batch.rows.begin(), batch.rows.end(), int64_t{0});
    WEFT_CHECK(batch.gathered_rows == 0 || batch.gathered_rows == sum, "step {}: {} gathered rows of {}",
               step.id, batch.gathered_rows, sum);
    for (size_t d = 0; d < batch.rows.size(); ++d) {
      WEFT_CHECK(batch.rows[d] <= capacity, "step {}: DP rank {} has {} rows, more than {}", step.id, d,
                 batch.rows[d], capacity);
      if (plan.dispatch == plan::DispatchMode::kNone) continue;
      const int64_t chunk = plan.dispatch == plan::DispatchMode::kNormal ? config_.plan.normal_chunk_rows
                                                                         : config_.plan.low_latency_rows;
      WEFT_CHECK(batch.rows[d] / attn_tp <= chunk * batch.expert_chunks,
                 "step {}: DP rank {} dispatches {} rows a rank in {} chunks of {}", step.id, d,
                 batch.rows[d] / attn_tp, batch.expert_chunks, chunk);
      WEFT_CHECK(plan.graph_bucket[d] == 0 || batch.expert_chunks == 1,
                 "step {}: a graph with {} expert chunks", step.id, batch.expert_chunks);
    }
  }
  for (const int64_t rows : plan.logit_rows) {
    WEFT_CHECK(rows <= capacity && rows <= plan.logit_chunks * config_.plan.logit_chunk_rows,
               "step {}: {} logit rows in {} passes of {}; at most {} fit", step.id, rows, plan.logit_chunks,
               config_.plan.logit_chunk_rows, capacity);
  }
}

void StepAudit::check_rows(const Step& step, size_t d) {
  places_.assign(2, {});
  const auto& inputs = step.inputs[d].micro_batches;
  for (const auto& input : inputs) {
    WEFT_CHECK(!input.cu_q.empty() && input.cu_q[0] == 0 && input.cu_q.size() == input.kv_len.size() + 1,
               "step {}: DP rank {} has {} sequence starts for {} sequences", step.id, d, input.cu_q.size(),
               input.kv_len.size());
  }
  for (const SequenceRows& rows : step.batches[d].seqs) check_sequence(step, d, rows);
  for (size_t m = 0; m < inputs.size(); ++m) {
    const auto& input = inputs[m];
    const int64_t planned = m < step.plan.micro_batches.size() ? step.plan.micro_batches[m].num_tokens[d] : 0;
    const Place& end = places_[m];
    WEFT_CHECK(end.row == input.ids.size() && input.num_tokens() == planned &&
                   end.seq == input.kv_len.size() && end.page == input.pages.size() &&
                   input.positions.size() == input.ids.size() && input.kv_slots.size() == input.ids.size(),
               "step {}: DP rank {}, micro-batch {}: {} rows, {} sequences and {} pages, of which {}, {} and "
               "{} belong "
               "to the batch; the plan has {} rows",
               step.id, d, m, input.ids.size(), input.kv_len.size(), input.pages.size(), end.row, end.seq,
               end.page, planned);
  }
}

// The next sequence of the batch is the next one of micro-batch 0, or of micro-batch 1, or is cut between the
// two.
void StepAudit::check_sequence(const Step& step, size_t d, const SequenceRows& rows) {
  DpRank& own = dp_ranks_[d];
  const auto slot = static_cast<size_t>(rows.slot);
  if (rows.start == 0) {
    WEFT_CHECK(own.last_steps[slot] <= last_retired_,
               "step {}: DP rank {} gives request slot {} away, which step {} in flight uses", step.id, d,
               slot, own.last_steps[slot]);
    ++own.generations[slot];
    own.next_position[slot] = 0;
    own.slot_pages[slot].clear();
  }
  WEFT_CHECK(rows.start == own.next_position[slot] && rows.num_tokens > 0,
             "step {}: DP rank {} runs tokens [{}, +{}) of slot {}, whose next one is {}", step.id, d,
             rows.start, rows.num_tokens, slot, own.next_position[slot]);
  own.next_position[slot] += rows.num_tokens;
  own.last_steps[slot] = step.id;
  int64_t position = rows.start;
  const int64_t end = rows.start + rows.num_tokens;
  for (size_t m = 0; m < 2 && position < end; ++m) {
    const auto& input = step.inputs[d].micro_batches[m];
    Place& at = places_[m];
    if (at.seq == input.kv_len.size()) continue;  // the micro-batch is at its end
    const size_t last_row = std::min(static_cast<size_t>(input.cu_q[at.seq + 1]), input.ids.size());
    const int64_t num_pages = ceil_div<int64_t>(input.kv_len[at.seq], config_.page_size);
    WEFT_CHECK(at.row == static_cast<size_t>(input.cu_q[at.seq]) && last_row > at.row &&
                   at.page + static_cast<size_t>(num_pages) <= input.pages.size(),
               "step {}: DP rank {}, micro-batch {}: sequence {} has rows [{}, {}) and {} pages", step.id, d,
               m, at.seq, at.row, last_row, num_pages);
    const int32_t* pages = input.pages.data() + at.page;
    for (; at.row < last_row; ++at.row, ++position) {
      const int64_t page = position / config_.page_size;
      const bool same_token = rows.decode ? input.ids[at.row] == -(rows.slot + 1) : input.ids[at.row] >= 0;
      WEFT_CHECK(position < end && input.positions[at.row] == position && same_token && page < num_pages &&
                     input.kv_slots[at.row] == pages[page] * config_.page_size + position % config_.page_size,
                 "step {}: DP rank {}, micro-batch {}: row {} has token {} at position {} in KV slot {}; "
                 "slot {} needs "
                 "position {} below {}",
                 step.id, d, m, at.row, input.ids[at.row], input.positions[at.row], input.kv_slots[at.row],
                 slot, position, end);
    }
    WEFT_CHECK(input.kv_len[at.seq] == position,
               "step {}: DP rank {}, micro-batch {}: kv_len {} ends at position {}", step.id, d, m,
               input.kv_len[at.seq], position);
    own_pages(step, d, rows.slot, pages, num_pages);
    at.page += static_cast<size_t>(num_pages);
    ++at.seq;
  }
  WEFT_CHECK(position == end, "step {}: DP rank {} runs slot {} up to position {}, not {}", step.id, d, slot,
             position, end);
}

// A request keeps its pages in their order, and gets new ones that no step in flight uses for another.
void StepAudit::own_pages(const Step& step, size_t d, int32_t slot, const int32_t* pages, int64_t count) {
  DpRank& rank = dp_ranks_[d];
  const int64_t generation = rank.generations[static_cast<size_t>(slot)];
  auto& known = rank.slot_pages[static_cast<size_t>(slot)];
  for (int64_t i = 0; i < count; ++i) {
    WEFT_CHECK(pages[i] >= 0 && pages[i] < config_.num_pages, "step {}: DP rank {} uses page {} of {}",
               step.id, d, pages[i], config_.num_pages);
    Owner& owner = rank.pages[static_cast<size_t>(pages[i])];
    if (i < static_cast<int64_t>(known.size())) {
      WEFT_CHECK(
          known[static_cast<size_t>(i)] == pages[i] && owner.slot == slot && owner.generation == generation,
          "step {}: DP rank {} reads page {} of slot {} as its page {}, which was {} and is slot {}'s",
          step.id, d, pages[i], slot, i, known[static_cast<size_t>(i)], owner.slot);
    } else {
      WEFT_CHECK(owner.last_step <= last_retired_,
                 "step {}: DP rank {} gives page {} to slot {}, but slot {} uses it in step {}, which has "
                 "not retired",
                 step.id, d, pages[i], slot, owner.slot, owner.last_step);
      owner = {.generation = generation, .slot = slot};
      known.push_back(pages[i]);
    }
    owner.last_step = step.id;
  }
}

// A row of logits for each wanted token, and no other.
void StepAudit::check_logit_rows(const Step& step, size_t d) const {
  const RankBatch& batch = step.batches[d];
  const auto& logit_rows = step.inputs[d].logit_rows;
  WEFT_CHECK(logit_rows.size() == batch.wanted.size() &&
                 static_cast<int64_t>(logit_rows.size()) <= step.plan.logit_rows[d],
             "step {}: DP rank {} has {} logit rows for {} wanted, {} planned", step.id, d, logit_rows.size(),
             batch.wanted.size(), step.plan.logit_rows[d]);
  const int64_t first = step.plan.micro_batches[0].num_tokens[d];
  for (size_t i = 0; i < logit_rows.size(); ++i) {
    const exec::LogitRow& row = logit_rows[i];
    const WantedRow& wanted = batch.wanted[i];
    const int64_t token = row.row + (row.micro_batch == 0 ? 0 : first);
    const int32_t slot = batch.seqs[static_cast<size_t>(wanted.seq)].slot;
    const bool in_range = row.micro_batch == 0 ? row.row < first : row.row >= 0 && row.micro_batch == 1;
    WEFT_CHECK(
        in_range && token == wanted.token && row.slot == (wanted.input_position >= 0 ? -1 : slot),
        "step {}: DP rank {}: logit row {} is row {} of micro-batch {} for slot {}; token {} of slot {} was "
        "wanted",
        step.id, d, i, row.row, row.micro_batch, row.slot, wanted.token, slot);
  }
}

}  // namespace weft::runtime::simulate

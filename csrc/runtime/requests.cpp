#include "runtime/requests.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/error.h"

namespace weft::runtime {
namespace {

std::vector<TokenLogprob> top_of_row(const exec::ForwardOutput& output, size_t row, int32_t num_top) {
  std::vector<TokenLogprob> top;
  const size_t begin = row * static_cast<size_t>(output.max_top);
  for (size_t i = begin; i < begin + static_cast<size_t>(num_top); ++i) {
    top.push_back({output.top_ids[i], output.top_logprobs[i]});
  }
  return top;
}

}  // namespace

Requests::Requests(int attn_dp_size, const RequestLimits& limits) {
  for (int d = 0; d < attn_dp_size; ++d) tables_.emplace_back(limits);
}

const Requests::Place& Requests::find(int64_t rid, const char* what) const {
  const auto it = places_.find(rid);
  WEFT_CHECK(it != places_.end(), "{}: request {} is unknown, or has finished", what, rid);
  return it->second;
}

void Requests::check(const StepBatch& batch) const {
  WEFT_CHECK(batch.decode.empty() || batch.decode.size() == tables_.size(),
             "decode has {} entries for {} DP ranks", batch.decode.size(), tables_.size());
  std::unordered_set<int64_t> seen;
  for (const int64_t rid : batch.release) {
    static_cast<void>(find(rid, "release"));
    WEFT_CHECK(seen.insert(rid).second, "release: request {} is named twice", rid);
  }
  seen.clear();
  for (const Admission& admission : batch.admissions) {
    WEFT_CHECK(admission.dp_rank >= 0 && static_cast<size_t>(admission.dp_rank) < tables_.size(),
               "request {}: dp_rank={} of {}", admission.rid, admission.dp_rank, tables_.size());
    WEFT_CHECK(places_.count(admission.rid) == 0 && seen.insert(admission.rid).second,
               "request {}: the number is taken by a live request", admission.rid);
    table(admission.dp_rank).check(admission);
  }
  check_room(batch);
  check_rows(batch);
}

// Slots and pages for the admissions. A released request still counts while a step in flight has rows of it.
void Requests::check_room(const StepBatch& batch) const {
  struct Room {
    int64_t slots, pages;
  };
  std::vector<Room> room;
  for (const RequestTable& t : tables_) room.push_back({t.free_slots(), t.pages().available()});
  for (const int64_t rid : batch.release) {
    const Place& place = find(rid, "release");
    const Request& request = table(place.dp_rank).at(place.slot);
    if (request.steps_in_flight > 0) continue;
    Room& r = room[static_cast<size_t>(place.dp_rank)];
    r.slots += 1;
    r.pages += static_cast<int64_t>(request.pages.size()) + request.promised_pages;
  }
  for (const Admission& admission : batch.admissions) {
    const RequestTable& t = table(admission.dp_rank);
    Room& r = room[static_cast<size_t>(admission.dp_rank)];
    const int64_t num_pages = t.pages_for(admission);
    WEFT_CHECK(
        r.slots > 0,
        "request {}: all {} request slots of DP rank {} are taken, those of finished requests until the "
        "last step with a row of theirs was waited for",
        admission.rid, t.limits().max_requests, admission.dp_rank);
    WEFT_CHECK(
        num_pages <= r.pages,
        "request {}: {} prompt tokens and max_new_tokens={} need {} KV pages, DP rank {} has {} of {} left",
        admission.rid, admission.input_ids.size(), admission.max_new_tokens, num_pages, admission.dp_rank,
        r.pages, t.limits().num_pages);
    r.slots -= 1;
    r.pages -= num_pages;
  }
}

// Chunks must be what is left of live prompts, and every DP rank's rows must fit a step.
void Requests::check_rows(const StepBatch& batch) const {
  std::unordered_map<int64_t, const Admission*> admitted;
  for (const Admission& admission : batch.admissions) admitted.emplace(admission.rid, &admission);
  const std::unordered_set<int64_t> released(batch.release.begin(), batch.release.end());
  std::unordered_set<int64_t> seen;
  std::vector<int64_t> num_tokens(tables_.size(), 0);
  for (const auto& [rid, count] : batch.prefill) {
    WEFT_CHECK(seen.insert(rid).second, "prefill: request {} is named twice", rid);
    int64_t left = 0;
    int dp_rank = 0;
    if (const auto it = admitted.find(rid); it != admitted.end()) {
      dp_rank = it->second->dp_rank;
      left = static_cast<int64_t>(it->second->input_ids.size());
    } else {
      const Place& place = find(rid, "prefill");
      WEFT_CHECK(released.count(rid) == 0, "prefill: request {} is released in the same step", rid);
      const Request& request = table(place.dp_rank).at(place.slot);
      dp_rank = place.dp_rank;
      left = std::max<int64_t>(0, request.prompt_len() - request.num_scheduled);
    }
    WEFT_CHECK(count > 0 && count <= left,
               "prefill: request {}: a chunk of {} tokens, but {} of its prompt are left", rid, count, left);
    num_tokens[static_cast<size_t>(dp_rank)] += count;
  }
  for (size_t d = 0; d < tables_.size(); ++d) {
    const RequestTable& t = tables_[d];
    int64_t num_decodes = 0;
    if (!batch.decode.empty() && batch.decode[d]) {
      num_decodes = std::count_if(t.running().begin(), t.running().end(), [&](int32_t slot) {
        return t.at(slot).may_decode() && released.count(t.at(slot).rid) == 0;
      });
    }
    WEFT_CHECK(num_tokens[d] + num_decodes <= t.limits().max_tokens,
               "DP rank {}: {} prefill and {} decode tokens exceed the {} of a step", d, num_tokens[d],
               num_decodes, t.limits().max_tokens);
  }
}

void Requests::schedule(StepBatch&& batch, std::vector<RankBatch>& batches) {
  check(batch);
  for (const int64_t rid : batch.release) {
    const Place place = find(rid, "release");
    tables_[static_cast<size_t>(place.dp_rank)].drop(place.slot);
    places_.erase(rid);
    ++counts_.released;
  }
  for (Admission& admission : batch.admissions) {
    const int dp_rank = admission.dp_rank;
    const int64_t rid = admission.rid;
    const int32_t slot = tables_[static_cast<size_t>(dp_rank)].admit(std::move(admission));
    places_.emplace(rid, Place{dp_rank, slot});
    ++counts_.admitted;
  }
  batches.resize(tables_.size());
  for (RankBatch& rank_batch : batches) rank_batch.clear();
  for (const auto& [rid, count] : batch.prefill) {
    const Place& place = find(rid, "prefill");
    const auto d = static_cast<size_t>(place.dp_rank);
    add_prefill(batches[d], tables_[d], place.slot, count);
  }
  for (size_t d = 0; d < batch.decode.size(); ++d) {
    if (batch.decode[d]) add_decodes(batches[d], tables_[d]);
  }
}

Finish Requests::commit_token(RequestTable& table, int32_t slot, int32_t token) {
  Request& request = table.at(slot);
  if (token < 0) return Finish::kFailed;
  ++request.num_output;
  const auto& stops = request.stop_ids;
  Finish finish = Finish::kRunning;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    finish = Finish::kStop;
  } else if (request.num_output == request.max_new_tokens) {
    finish = Finish::kLength;
  }
  if (finish != Finish::kRunning) {
    places_.erase(request.rid);
    ++counts_.finished;
    table.drop(slot);
  }
  return finish;
}

void Requests::commit_row(RequestTable& table, int32_t slot, const exec::ForwardOutput& output, size_t row,
                          StepResult& result) {
  const Request& request = table.at(slot);
  result.rids.push_back(request.rid);
  result.tokens.push_back(output.tokens[row]);
  if (request.return_logprob) {
    result.output_logprobs.push_back(
        {request.rid, output.logprobs[row], top_of_row(output, row, request.num_top)});
  }
  result.finished.push_back(commit_token(table, slot, output.tokens[row]));
}

void Requests::retire(int dp_rank, const RankBatch& batch, const exec::ForwardOutput& output,
                      StepResult& result) {
  RequestTable& table = tables_[static_cast<size_t>(dp_rank)];
  WEFT_CHECK(output.tokens.size() == batch.wanted.size() && output.logprobs.size() == batch.wanted.size(),
             "DP rank {}: {} rows came back for {} wanted", dp_rank, output.tokens.size(),
             batch.wanted.size());
  int32_t last_input_seq = -1;
  for (size_t i = 0; i < batch.wanted.size(); ++i) {
    const WantedRow& wanted = batch.wanted[i];
    const int32_t slot = batch.seqs[static_cast<size_t>(wanted.seq)].slot;
    const Request& request = table.at(slot);
    if (request.state != Request::State::kLive) {
      counts_.discarded_rows += wanted.input_position < 0 ? 1 : 0;
    } else if (wanted.input_position < 0) {
      commit_row(table, slot, output, i, result);
    } else {
      if (wanted.seq != last_input_seq) {
        result.input_logprobs.push_back({request.rid, wanted.input_position, {}, {}});
      }
      last_input_seq = wanted.seq;
      result.input_logprobs.back().logprobs.push_back(output.logprobs[i]);
      result.input_logprobs.back().top.push_back(top_of_row(output, i, request.num_top));
    }
  }
  for (const SequenceRows& rows : batch.seqs) table.retire(rows.slot);
}

}  // namespace weft::runtime

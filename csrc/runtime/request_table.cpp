#include "runtime/request_table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/math.h"

namespace weft::runtime {
namespace {

void check_sampling(const Admission& a) {
  WEFT_CHECK(a.temperature >= 0.0F && std::isfinite(a.temperature),
             "request {}: temperature={} must be 0 (greedy) or a positive number", a.rid, a.temperature);
  WEFT_CHECK(a.top_p > 0.0F && a.top_p <= 1.0F, "request {}: top_p={} must be in (0, 1]", a.rid, a.top_p);
  WEFT_CHECK(a.top_k >= 0, "request {}: top_k={} must be positive, or 0 for all", a.rid, a.top_k);
  WEFT_CHECK(a.min_p >= 0.0F && a.min_p <= 1.0F, "request {}: min_p={} must be in [0, 1]", a.rid, a.min_p);
}

}  // namespace

RequestTable::RequestTable(const RequestLimits& limits)
    : limits_(limits),
      pages_(limits.num_pages),
      requests_(static_cast<size_t>(limits.max_requests)),
      free_slots_(static_cast<size_t>(limits.max_requests)) {
  std::iota(free_slots_.rbegin(), free_slots_.rend(), 0);
}

void RequestTable::check(const Admission& a) const {
  const auto prompt_len = static_cast<int64_t>(a.input_ids.size());
  WEFT_CHECK(a.rid >= 0, "rid={} must not be negative", a.rid);
  WEFT_CHECK(prompt_len > 0, "request {}: the prompt is empty", a.rid);
  WEFT_CHECK(a.max_new_tokens > 0, "request {}: max_new_tokens={} must be at least 1", a.rid,
             a.max_new_tokens);
  WEFT_CHECK(a.max_new_tokens <= limits_.max_context && prompt_len + a.max_new_tokens <= limits_.max_context,
             "request {}: {} prompt tokens and max_new_tokens={} exceed the context length {}", a.rid,
             prompt_len, a.max_new_tokens, limits_.max_context);
  for (const int32_t id : a.input_ids) {
    WEFT_CHECK(id >= 0 && id < limits_.vocab_size, "request {}: token id {} is outside the vocabulary of {}",
               a.rid, id, limits_.vocab_size);
  }
  WEFT_CHECK(a.logprob_start >= -1 && a.logprob_start <= prompt_len,
             "request {}: logprob_start={} is outside the prompt of {} tokens", a.rid, a.logprob_start,
             prompt_len);
  WEFT_CHECK(a.top_logprobs_num >= 0 && a.top_logprobs_num <= limits_.max_top_logprobs,
             "request {}: top_logprobs_num={}; at most {} are computed", a.rid, a.top_logprobs_num,
             limits_.max_top_logprobs);
  WEFT_CHECK(pages_for(a) <= limits_.num_pages, "request {}: {} tokens need {} KV pages, DP rank {} has {}",
             a.rid, prompt_len + a.max_new_tokens, pages_for(a), a.dp_rank, limits_.num_pages);
  check_sampling(a);
}

int64_t RequestTable::pages_for(const Admission& admission) const {
  return ceil_div(static_cast<int64_t>(admission.input_ids.size()) + admission.max_new_tokens,
                  limits_.page_size);
}

int32_t RequestTable::admit(Admission&& a) {
  WEFT_CHECK(!free_slots_.empty(), "request {}: all {} request slots of DP rank {} are taken", a.rid,
             limits_.max_requests, a.dp_rank);
  const int64_t num_pages = pages_for(a);
  WEFT_CHECK(pages_.reserve(num_pages), "request {}: needs {} KV pages, DP rank {} has {} of {} left", a.rid,
             num_pages, a.dp_rank, pages_.available(), pages_.num_pages());
  const int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  Request& request = at(slot);
  std::vector<int32_t> pages = std::move(request.pages);  // keeps the capacity
  pages.clear();
  request = Request{.state = Request::State::kLive,
                    .rid = a.rid,
                    .prompt = std::move(a.input_ids),
                    .max_new_tokens = a.max_new_tokens,
                    .sampling = {.temperature = a.temperature,
                                 .top_p = a.top_p,
                                 .min_p = a.min_p,
                                 .top_k = a.top_k,
                                 .seed = a.seed},
                    .stop_ids = std::move(a.stop_token_ids),
                    .logprob_start = a.logprob_start,
                    .return_logprob = a.return_logprob,
                    .num_top = a.top_logprobs_num,
                    .pages = std::move(pages),
                    .promised_pages = num_pages};
  return slot;
}

void RequestTable::schedule(int32_t slot, int64_t count, bool samples) {
  Request& request = at(slot);
  const bool was_running = request.num_scheduled >= request.prompt_len();
  request.num_scheduled += count;
  request.num_sampled += samples ? 1 : 0;
  ++request.steps_in_flight;
  while (static_cast<int64_t>(request.pages.size()) * limits_.page_size < request.num_scheduled) {
    request.pages.push_back(pages_.take());
    --request.promised_pages;
  }
  if (!was_running && request.num_scheduled >= request.prompt_len()) running_.push_back(slot);
}

void RequestTable::drop(int32_t slot) {
  Request& request = at(slot);
  request.state = Request::State::kRetiring;
  if (request.steps_in_flight == 0) free(slot);
}

void RequestTable::retire(int32_t slot) {
  Request& request = at(slot);
  --request.steps_in_flight;
  if (request.state == Request::State::kRetiring && request.steps_in_flight == 0) free(slot);
}

void RequestTable::free(int32_t slot) {
  Request& request = at(slot);
  for (const int32_t page : request.pages) pages_.release(page);
  request.pages.clear();
  pages_.cancel(request.promised_pages);
  request.promised_pages = 0;
  request.state = Request::State::kFree;
  // A slot may be taken again before the next sweep, and must then not stand in running() twice.
  running_.erase(std::remove(running_.begin(), running_.end(), slot), running_.end());
  free_slots_.push_back(slot);
}

int32_t RequestTable::kv_slot(const Request& request, int64_t position) const {
  const int32_t page = request.pages[static_cast<size_t>(position / limits_.page_size)];
  return static_cast<int32_t>(page * limits_.page_size + position % limits_.page_size);
}

void RequestTable::sweep_running() {
  running_.erase(
      std::remove_if(running_.begin(), running_.end(), [&](int32_t slot) { return !at(slot).may_decode(); }),
      running_.end());
}

}  // namespace weft::runtime

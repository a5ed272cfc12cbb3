#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "ops/sampling.h"
#include "runtime/page_allocator.h"
#include "runtime/step.h"

namespace weft::runtime {

/// Sizes of one DP rank.
struct RequestLimits {
  int64_t max_requests = 0;  // request slots
  int64_t max_tokens = 0;    // rows of a step
  int64_t max_context = 0;   // prompt and output tokens of one request
  int64_t page_size = 1;
  int64_t num_pages = 0;
  int64_t max_top_logprobs = 0;
  int64_t vocab_size = 0;
};

/// A request, as far as steps have been scheduled; only `num_output` waits for what they left.
struct Request {
  enum class State : uint8_t {
    kFree,
    kLive,
    kRetiring,  // finished or released, but a step in flight still has rows of it
  };

  State state = State::kFree;
  int64_t rid = -1;
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 0;
  ops::SamplingRow sampling;  // without the position
  std::vector<int32_t> stop_ids;
  int64_t logprob_start = -1;
  bool return_logprob = false;
  int32_t num_top = 0;

  std::vector<int32_t> pages;   // of positions [0, num_scheduled)
  int64_t promised_pages = 0;   // promised and not taken yet
  int64_t num_scheduled = 0;    // tokens whose K and V are written by the steps scheduled so far
  int64_t num_sampled = 0;      // tokens that those steps sample
  int64_t num_output = 0;       // tokens that came back
  int32_t steps_in_flight = 0;  // scheduled and not retired, with rows of it

  [[nodiscard]] int64_t prompt_len() const { return static_cast<int64_t>(prompt.size()); }
  /// The prompt is scheduled to its end and another token may be sampled.
  [[nodiscard]] bool may_decode() const {
    return state == State::kLive && num_scheduled >= prompt_len() && num_sampled < max_new_tokens;
  }
};

/// The requests and KV pages of one DP rank. One thread at a time.
///
/// A slot and its pages have up to two kinds of owner: the request itself, until it finishes or is released,
/// and the steps in flight that have rows of it. They are free when the last owner has gone, so a new request
/// never shares them with a row that is still to run.
class RequestTable {
 public:
  explicit RequestTable(const RequestLimits& limits);

  /// Throws Error, naming rid and numbers, if the request can never run here.
  void check(const Admission& admission) const;
  /// Pages that admission promises: for the whole prompt and all that it may generate.
  [[nodiscard]] int64_t pages_for(const Admission& admission) const;
  /// Takes a request that passed check(); returns its slot. Throws Error if there is no slot, or not the
  /// pages.
  int32_t admit(Admission&& admission);

  /// Writes the request's next `count` tokens' pages; adds a step in flight and moves num_scheduled on.
  void schedule(int32_t slot, int64_t count, bool samples);
  /// The request itself lets go of slot and pages: it has finished, or was released.
  void drop(int32_t slot);
  /// A step that had rows of the request has retired.
  void retire(int32_t slot);

  [[nodiscard]] const Request& at(int32_t slot) const { return requests_[static_cast<size_t>(slot)]; }
  [[nodiscard]] Request& at(int32_t slot) { return requests_[static_cast<size_t>(slot)]; }
  /// Where K and V of a position stand: page * page_size + offset.
  [[nodiscard]] int32_t kv_slot(const Request& request, int64_t position) const;
  /// Slots of requests whose prompt is scheduled to its end, in the order in which that came about. Some may
  /// have been dropped since, or have all their tokens scheduled: see Request::may_decode.
  [[nodiscard]] const std::vector<int32_t>& running() const { return running_; }
  /// Takes out of running() those that get no further row.
  void sweep_running();

  [[nodiscard]] const RequestLimits& limits() const { return limits_; }
  [[nodiscard]] const PageAllocator& pages() const { return pages_; }
  [[nodiscard]] int64_t free_slots() const { return static_cast<int64_t>(free_slots_.size()); }

 private:
  void free(int32_t slot);

  RequestLimits limits_;
  PageAllocator pages_;
  std::vector<Request> requests_;    // by slot
  std::vector<int32_t> free_slots_;  // the last one is taken next
  std::vector<int32_t> running_;
};

}  // namespace weft::runtime

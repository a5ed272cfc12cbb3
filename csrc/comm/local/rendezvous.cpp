#include "comm/local/rendezvous.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace weft::comm::local {

std::string Call::describe() const {
  std::string text(name);
  if (!sized) return text;
  text += fmt::format("({}, {} elements", dtype_name(dtype), count);
  if (root >= 0) text += fmt::format(", root {}", root);
  if (!rows.empty()) text += fmt::format(", rows [{}]", fmt::join(rows, ", "));
  return text + ")";
}

bool Call::agrees(const Call& other) const {
  return name == other.name && sized == other.sized && dtype == other.dtype && count == other.count &&
         root == other.root && std::equal(rows.begin(), rows.end(), other.rows.begin(), other.rows.end());
}

void AbortFlag::set(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (set_.load()) return;
  reason_ = reason;
  set_.store(true);
}

std::string AbortFlag::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

Rendezvous::Rendezvous(std::string label, std::vector<int> ranks, std::chrono::milliseconds deadline,
                       const AbortFlag& abort)
    : label_(std::move(label)),
      ranks_(std::move(ranks)),
      deadline_(deadline),
      abort_(abort),
      calls_(ranks_.size()),
      num_calls_(ranks_.size(), 0),
      here_(ranks_.size(), false) {}

void Rendezvous::meet(int rank, const Call& call) {
  std::unique_lock lock(mutex_);
  // A rank that starts a call has seen the end of the last one, so no other rank reads this entry now.
  calls_[rank] = call;
  ++num_calls_[rank];
  arrive(std::move(lock), rank, true);
}

void Rendezvous::meet_again(int rank) { arrive(std::unique_lock(mutex_), rank, false); }

void Rendezvous::wake() {
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void Rendezvous::arrive(std::unique_lock<std::mutex> lock, int rank, bool starts_call) {
  check_usable(rank);
  here_[rank] = true;
  if (++num_here_ == size()) {
    if (starts_call) broken_ = find_disagreement();
    std::fill(here_.begin(), here_.end(), false);
    num_here_ = 0;
    if (broken_.empty()) ++generation_;
    const std::string error = broken_;
    lock.unlock();
    changed_.notify_all();
    if (!error.empty()) throw Error(error);
    return;
  }
  const uint64_t before = generation_;
  const bool in_time = changed_.wait_for(
      lock, deadline_, [&] { return generation_ != before || !broken_.empty() || abort_.is_set(); });
  if (generation_ != before) return;
  if (in_time) check_usable(rank);
  // Sorted out by the first whose patience ends; the others get the same words.
  broken_ = fmt::format("{}: {} did not come to {}, call {}, within {} ms", label_, describe_missing(),
                        calls_[rank].describe(), num_calls_[rank], deadline_.count());
  const std::string error = broken_;
  lock.unlock();
  changed_.notify_all();
  throw Error(error);
}

void Rendezvous::check_usable(int rank) const {
  if (!broken_.empty()) throw Error(broken_);
  if (!abort_.is_set()) return;
  WEFT_THROW("{}: {}, call {}, aborted; not here: {}: {}", label_, calls_[rank].describe(), num_calls_[rank],
             describe_missing(), abort_.reason());
}

std::string Rendezvous::find_disagreement() const {
  for (int r = 1; r < size(); ++r) {
    if (calls_[r].agrees(calls_[0])) continue;
    return fmt::format("{}, call {}: rank {} calls {}, but rank {} calls {}", label_, num_calls_[0],
                       ranks_[0], calls_[0].describe(), ranks_[r], calls_[r].describe());
  }
  return {};
}

std::string Rendezvous::describe_missing() const {
  std::string text;
  for (int r = 0; r < size(); ++r) {
    if (here_[r]) continue;
    text += fmt::format("{}rank {}", text.empty() ? "" : ", ", ranks_[r]);
    if (num_calls_[r] > 0) {
      text += fmt::format(" (last call: {}, call {})", calls_[r].name, num_calls_[r]);
    } else {
      text += " (no call yet)";
    }
  }
  return text.empty() ? "nobody" : text;
}

}  // namespace weft::comm::local

#include "device/cpu/access_history.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace weft::device::cpu {
namespace {

bool is_seen(uint32_t agent, uint64_t position, const Clock& seen) {
  return position <= clock_at(seen, agent);
}

}  // namespace

void AccessHistory::split(Intervals& intervals, size_t at) {
  auto after = intervals.upper_bound(at);
  if (after == intervals.begin()) return;
  const auto it = std::prev(after);
  if (it->first == at || it->second.end <= at) return;
  Interval tail = it->second;
  it->second.end = at;
  intervals.emplace_hint(after, at, std::move(tail));
}

void AccessHistory::merge(Intervals& intervals, size_t begin, size_t end) {
  auto it = intervals.lower_bound(begin);
  if (it != intervals.begin()) --it;
  while (it != intervals.end() && it->first <= end) {
    const auto next = std::next(it);
    if (next == intervals.end()) return;
    Interval& left = it->second;
    if (left.end == next->first && left.write == next->second.write && left.reads == next->second.reads) {
      left.end = next->second.end;
      intervals.erase(next);
    } else {
      it = next;
    }
  }
}

const AccessHistory::Use* AccessHistory::find_conflict(const Interval& interval, uint32_t agent,
                                                       const Clock& seen, bool write) const {
  const auto conflicts = [&](const Use& use) {
    return use.position != 0 && use.agent != agent && !is_seen(use.agent, use.position, seen);
  };
  if (conflicts(interval.write)) return &interval.write;
  if (!write) return nullptr;
  const auto read = std::find_if(interval.reads.begin(), interval.reads.end(), conflicts);
  return read == interval.reads.end() ? nullptr : &*read;
}

void AccessHistory::add(uint32_t agent, uint64_t position, const Clock& seen, const BufferAccess& access,
                        std::string_view where) {
  Intervals& intervals = buffers_[access.buffer.get()];
  split(intervals, access.begin);
  split(intervals, access.end);
  const auto first = intervals.lower_bound(access.begin);
  const auto last = intervals.lower_bound(access.end);
  for (auto it = first; it != last; ++it) {
    const Use* other = find_conflict(it->second, agent, seen, access.write);
    if (other == nullptr) continue;
    WEFT_THROW(
        "{} op '{}' {} bytes [{}, {}) of buffer '{}', which op '{}' of stream '{}' {}, and nothing orders "
        "the two; "
        "record an event after '{}' and let stream '{}' wait for it before '{}'",
        where, access.op, access.write ? "writes" : "reads", it->first, it->second.end, access.buffer->name,
        other->op, agents_[other->agent], other == &it->second.write ? "writes" : "reads", other->op,
        agents_[agent], access.op);
  }
  const Use use{agent, position, access.op};
  if (access.write) {
    intervals.erase(first, last);
    intervals[access.begin] = {.end = access.end, .write = use, .reads = {}};
  } else {
    size_t covered = access.begin;
    for (auto it = first; it != last; ++it) {
      if (covered < it->first) intervals[covered] = {.end = it->first, .write = {}, .reads = {use}};
      covered = it->second.end;
      auto& reads = it->second.reads;
      const auto mine =
          std::find_if(reads.begin(), reads.end(), [&](const Use& r) { return r.agent == agent; });
      if (mine != reads.end()) {
        *mine = use;
      } else {
        // Sorted, so that equal neighbours are found equal.
        reads.insert(std::upper_bound(reads.begin(), reads.end(), use,
                                      [](const Use& a, const Use& b) { return a.agent < b.agent; }),
                     use);
      }
    }
    if (covered < access.end) intervals[covered] = {.end = access.end, .write = {}, .reads = {use}};
  }
  merge(intervals, access.begin, access.end);
  if (adds_until_prune_ > 0) --adds_until_prune_;
}

std::string AccessHistory::find_unseen(const BufferRecord& buffer, const Clock& seen) const {
  const auto found = buffers_.find(&buffer);
  if (found == buffers_.end()) return {};
  for (const auto& [begin, interval] : found->second) {
    const Use* use = find_conflict(interval, ~uint32_t{0}, seen, true);
    if (use != nullptr) return fmt::format("op '{}' of stream '{}'", use->op, agents_[use->agent]);
  }
  return {};
}

void AccessHistory::prune(const Clock& seen) {
  if (adds_until_prune_ > 0) return;
  const auto old = [&](const Use& use) { return is_seen(use.agent, use.position, seen); };
  for (auto buffer = buffers_.begin(); buffer != buffers_.end();) {
    Intervals& intervals = buffer->second;
    for (auto it = intervals.begin(); it != intervals.end();) {
      Interval& interval = it->second;
      interval.reads.erase(std::remove_if(interval.reads.begin(), interval.reads.end(), old),
                           interval.reads.end());
      if (old(interval.write)) interval.write = {};
      it = interval.write.position == 0 && interval.reads.empty() ? intervals.erase(it) : std::next(it);
    }
    buffer = intervals.empty() ? buffers_.erase(buffer) : std::next(buffer);
  }
  adds_until_prune_ = std::max(size_t{4096}, num_intervals());
}

size_t AccessHistory::num_intervals() const {
  size_t count = 0;
  for (const auto& [buffer, intervals] : buffers_) count += intervals.size();
  return count;
}

std::vector<BufferAccess> coalesce(std::vector<BufferAccess> accesses) {
  const auto key = [](const BufferAccess& a) { return std::tuple(a.buffer.get(), a.write, a.begin); };
  std::stable_sort(accesses.begin(), accesses.end(),
                   [&](const BufferAccess& a, const BufferAccess& b) { return key(a) < key(b); });
  std::vector<BufferAccess> result;
  for (BufferAccess& access : accesses) {
    if (!result.empty() && result.back().buffer == access.buffer && result.back().write == access.write &&
        access.begin <= result.back().end) {
      result.back().end = std::max(result.back().end, access.end);
    } else {
      result.push_back(std::move(access));
    }
  }
  return result;
}

}  // namespace weft::device::cpu

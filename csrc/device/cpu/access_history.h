#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "device/buffer_table.h"
#include "device/clock.h"

namespace weft::device::cpu {

/// Builds with WEFT_CHECKED prove for every op that what it conflicts with comes before it.
#ifdef WEFT_CHECKED
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

/// Who touched which bytes last, and with a vector clock whether the next one is ordered after them.
///
/// An interval of a buffer remembers its last write and, for each agent (stream, or lane of a capture), the
/// last read since: what came before is ordered before those. So the history is bounded by the distinct
/// intervals, and prune() takes out what everyone has seen. One thread at a time.
class AccessHistory {
 public:
  /// Agents are numbered in order of addition.
  void add_agent(std::string name) { agents_.push_back(std::move(name)); }

  /// Notes the access of the command of `agent` that ends at `position`. seen: what the agent follows.
  /// Throws Error, starting with `where`, if another agent's conflicting access is not in `seen`.
  void add(uint32_t agent, uint64_t position, const Clock& seen, const BufferAccess& access,
           std::string_view where);
  /// An access to `buffer` that is not in `seen`, as "op 'x' of stream 'y'"; empty if there is none.
  [[nodiscard]] std::string find_unseen(const BufferRecord& buffer, const Clock& seen) const;
  void forget(const BufferRecord& buffer) { buffers_.erase(&buffer); }
  /// Drops what is in `seen`, the clock of someone whom every later access follows; only when enough has come
  /// together to be worth the time.
  void prune(const Clock& seen);
  [[nodiscard]] size_t num_intervals() const;

 private:
  struct Use {
    uint32_t agent = 0;
    uint64_t position = 0;  // 0: no use
    std::string_view op;
    bool operator==(const Use&) const = default;
  };
  struct Interval {
    size_t end = 0;
    Use write;
    std::vector<Use> reads;
  };
  using Intervals = std::map<size_t, Interval>;  // by begin; disjoint

  static void split(Intervals& intervals, size_t at);
  static void merge(Intervals& intervals, size_t begin, size_t end);
  [[nodiscard]] const Use* find_conflict(const Interval& interval, uint32_t agent, const Clock& seen,
                                         bool write) const;

  std::vector<std::string> agents_;
  std::unordered_map<const BufferRecord*, Intervals> buffers_;
  size_t adds_until_prune_ = 4096;
};

/// The union of many accesses: for each buffer the ranges read and the ranges written.
[[nodiscard]] std::vector<BufferAccess> coalesce(std::vector<BufferAccess> accesses);

}  // namespace weft::device::cpu

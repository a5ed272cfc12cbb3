#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace weft::comm::local {

/// What one rank brings to a meeting. Ranks must agree on all but the pointers.
struct Call {
  std::string_view name;  // static storage
  bool sized = false;     // dtype and count mean something
  DType dtype = DType::kU8;
  int64_t count = 0;              // elements
  int32_t root = -1;              // broadcast
  std::span<const int64_t> rows;  // unequal counts; must live until the ranks have parted
  const void* in = nullptr;
  void* out = nullptr;

  /// "all_reduce(f32, 128 elements)".
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] bool agrees(const Call& other) const;
};

/// Whether and why a world was aborted. Thread-safe.
class AbortFlag {
 public:
  /// Keeps the first reason.
  void set(const std::string& reason);
  [[nodiscard]] bool is_set() const { return set_.load(); }
  [[nodiscard]] std::string reason() const;

 private:
  mutable std::mutex mutex_;
  std::string reason_;
  std::atomic<bool> set_{false};
};

/// Where the ranks of one group meet, over and over. Ranks are indices into the group; messages name ranks of
/// the world. Waiting threads sleep. After an error (a rank that did not come, ranks that disagree) the
/// meeting is broken: every later call throws the same message.
class Rendezvous {
 public:
  /// label: the group in messages. ranks: of the world.
  Rendezvous(std::string label, std::vector<int> ranks, std::chrono::milliseconds deadline,
             const AbortFlag& abort);

  /// Starts a call: returns when all ranks have come with a call that agrees.
  void meet(int rank, const Call& call);
  /// A further step of the call: returns when all ranks have come.
  void meet_again(int rank);
  /// What `rank` brought; fixed between meet and the call's last meet_again.
  [[nodiscard]] const Call& call(int rank) const { return calls_[rank]; }
  [[nodiscard]] int size() const { return static_cast<int>(ranks_.size()); }
  /// After the abort flag was set.
  void wake();

 private:
  void arrive(std::unique_lock<std::mutex> lock, int rank, bool starts_call);
  void check_usable(int rank) const;
  [[nodiscard]] std::string find_disagreement() const;
  [[nodiscard]] std::string describe_missing() const;

  const std::string label_;
  const std::vector<int> ranks_;
  const std::chrono::milliseconds deadline_;
  const AbortFlag& abort_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Call> calls_;
  std::vector<int64_t> num_calls_;  // by rank, the current one included: its sequence number
  std::vector<bool> here_;
  int num_here_ = 0;
  uint64_t generation_ = 0;  // meetings that have come together
  std::string broken_;
};

}  // namespace weft::comm::local

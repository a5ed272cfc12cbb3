#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace weft::comm {

/// The ranks of one process: makes Communicators that meet in shared memory. Thread-safe; outlives them.
class LocalWorld {
 public:
  /// deadline: the longest that a collective waits for a peer.
  LocalWorld(int world_size, std::chrono::milliseconds deadline);
  ~LocalWorld();
  LocalWorld(const LocalWorld&) = delete;
  LocalWorld& operator=(const LocalWorld&) = delete;

  [[nodiscard]] int world_size() const;
  /// The Communicator of `rank` (of the world) in the group `ranks` (ascending, holds `rank`), on `channel`.
  /// Members that pass equal (group, ranks, channel) meet; at most 64. Does not wait for the others. A second
  /// one for the same rank throws until all members have destroyed theirs.
  [[nodiscard]] std::unique_ptr<Communicator> make_communicator(int rank, const std::string& group,
                                                                const std::vector<int>& ranks, int channel);
  /// Ends every wait, now and from now on, with an Error that quotes `reason`.
  void abort(const std::string& reason);
  [[nodiscard]] bool aborted() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft::comm

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/collective.h"
#include "comm/communicator.h"
#include "comm/dispatch.h"
#include "device/null/null_device.h"

namespace weft::comm {

/// What a rank brings to a meeting on null devices. Ranks must agree on all but `rank`.
struct NullCall {
  int32_t group = 0;  // which of the world's groups
  int32_t rank = 0;   // in the group
  Collective op{};
  DType dtype{};
  int32_t root = -1;         // broadcast
  int32_t mode = -1;         // dispatch, combine: plan::DispatchMode
  int64_t chunk = -1;        // likewise
  int64_t count = 0;         // elements, as in plan::CollectiveRecord
  uint64_t rows_hash = 0;    // of unequal counts
  int32_t micro_batch = -1;  // the stream's tag

  [[nodiscard]] bool agrees(const NullCall& other) const;
  /// "all_reduce(f32, 128 elements)".
  [[nodiscard]] std::string describe() const;
};

/// The ranks of a simulation: their communicators enqueue calls on null devices, and run() lets the calls
/// meet.
///
/// Every collective finds its peers with the same op, count and dtype, in the order in which each rank's
/// streams come to it, or run() throws, naming both calls, or the rank that never comes and where it stands.
/// One host thread.
class NullWorld {
 public:
  explicit NullWorld(int world_size) : devices_(static_cast<size_t>(world_size)) {}

  /// The device of a rank; outlives its use here.
  void set_device(int rank, device::NullDevice& device) { devices_[static_cast<size_t>(rank)] = &device; }
  /// As of LocalWorld. A rank may make another one for the same (group, ranks, channel) after the first is
  /// gone.
  [[nodiscard]] std::unique_ptr<Communicator> make_communicator(int rank, const std::string& group,
                                                                const std::vector<int>& ranks, int channel);
  /// A dispatcher around `inner` whose calls meet in the group of `communicator`, one that this world made.
  [[nodiscard]] std::unique_ptr<Dispatcher> wrap_dispatcher(std::unique_ptr<Dispatcher> inner,
                                                            const Communicator& communicator);

  /// Runs all devices until they are idle, then lets them forget. Throws Error if ranks disagree, or if some
  /// wait for ever.
  void run();

  /// The calls among the ops that a rank has enqueued since its device's clear_enqueued().
  [[nodiscard]] std::vector<const NullCall*> enqueued(int rank) const;
  [[nodiscard]] const std::string& group_name(const NullCall& call) const {
    return groups_[static_cast<size_t>(call.group)].name;
  }
  /// Meetings so far.
  [[nodiscard]] int64_t num_meetings() const { return num_meetings_; }

 private:
  struct Here {
    device::null::Cursor* lane = nullptr;  // null: has not come
    const NullCall* call = nullptr;
    int64_t time_us = 0;
  };
  struct Group {
    std::string name;
    std::vector<int> ranks;  // of the world
    int channel = 0;
    std::vector<Here> here;  // by rank in the group
    size_t num_here = 0;
  };

  void arrive(int rank, const device::NullArrival& arrival, std::vector<int>& movable);
  void part(Group& group, std::vector<int>& movable);
  [[nodiscard]] std::string stuck() const;

  std::vector<device::NullDevice*> devices_;
  std::vector<Group> groups_;
  int64_t num_meetings_ = 0;
};

}  // namespace weft::comm

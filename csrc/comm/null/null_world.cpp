#include "comm/null/null_world.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "comm/null/null_communicator.h"

namespace weft::comm {

bool NullCall::agrees(const NullCall& other) const {
  return op == other.op && dtype == other.dtype && root == other.root && mode == other.mode &&
         chunk == other.chunk && count == other.count && rows_hash == other.rows_hash &&
         micro_batch == other.micro_batch;
}

std::string NullCall::describe() const {
  std::string text = fmt::format("{}({}, {} elements", collective_name(op), dtype_name(dtype), count);
  if (micro_batch >= 0) text += fmt::format(", micro-batch {}", micro_batch);
  if (mode >= 0) {
    text +=
        fmt::format(", {} chunk {}", plan::dispatch_mode_name(static_cast<plan::DispatchMode>(mode)), chunk);
  }
  if (rows_hash != 0) text += fmt::format(", rows {:04x}", rows_hash & 0xffff);
  return text + ")";
}

std::unique_ptr<Communicator> NullWorld::make_communicator(int rank, const std::string& group,
                                                           const std::vector<int>& ranks, int channel) {
  const auto member = std::find(ranks.begin(), ranks.end(), rank);
  WEFT_CHECK(member != ranks.end(), "rank {} is not in the group '{}' of {} ranks", rank, group,
             ranks.size());
  auto found = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) {
    return g.name == group && g.channel == channel && g.ranks == ranks;
  });
  if (found == groups_.end()) {
    groups_.push_back(
        {.name = group, .ranks = ranks, .channel = channel, .here = std::vector<Here>(ranks.size())});
    found = std::prev(groups_.end());
  }
  return std::make_unique<null::NullCommunicator>(group, static_cast<int32_t>(found - groups_.begin()),
                                                  static_cast<int32_t>(member - ranks.begin()),
                                                  static_cast<int>(ranks.size()));
}

std::unique_ptr<Dispatcher> NullWorld::wrap_dispatcher(std::unique_ptr<Dispatcher> inner,
                                                       const Communicator& communicator) {
  const auto* own = dynamic_cast<const null::NullCommunicator*>(&communicator);
  WEFT_CHECK(own != nullptr, "wrap_dispatcher: group '{}' was not made by a NullWorld", communicator.group());
  return std::make_unique<null::NullDispatcher>(std::move(inner), own->call_template());
}

void NullWorld::run() {
  std::vector<int> movable;
  for (int rank = static_cast<int>(devices_.size()) - 1; rank >= 0; --rank) movable.push_back(rank);
  while (!movable.empty()) {
    const int rank = movable.back();
    movable.pop_back();
    device::NullDevice& device = *devices_[static_cast<size_t>(rank)];
    device.advance();
    const std::vector<device::NullArrival> arrivals = std::exchange(device.arrivals(), {});
    for (const auto& arrival : arrivals) arrive(rank, arrival, movable);
  }
  const std::string message = stuck();
  WEFT_CHECK(message.empty(), "{}", message);
  for (device::NullDevice* device : devices_) device->forget();
}

void NullWorld::arrive(int rank, const device::NullArrival& arrival, std::vector<int>& movable) {
  if (arrival.op->fn != null::meeting_function()) {  // a local op of the inner dispatcher
    devices_[static_cast<size_t>(rank)]->pass(*arrival.lane, arrival.time_us);
    movable.push_back(rank);
    return;
  }
  const auto* call = static_cast<const NullCall*>(arrival.op->args);
  Group& group = groups_[static_cast<size_t>(call->group)];
  Here& here = group.here[static_cast<size_t>(call->rank)];
  WEFT_CHECK(
      here.lane == nullptr,
      "{} (channel {}): rank {} comes with {} on one stream while {} waits on another; the calls of one "
      "communicator are matched in order",
      group.name, group.channel, rank, call->describe(), here.call->describe());
  here = {arrival.lane, call, arrival.time_us};
  if (++group.num_here == group.ranks.size()) part(group, movable);
}

void NullWorld::part(Group& group, std::vector<int>& movable) {
  const NullCall& first = *group.here[0].call;
  int64_t time_us = 0;
  for (size_t r = 0; r < group.ranks.size(); ++r) {
    const Here& here = group.here[r];
    WEFT_CHECK(first.agrees(*here.call), "{} (channel {}): rank {} comes with {}, but rank {} with {}",
               group.name, group.channel, group.ranks[0], first.describe(), group.ranks[r],
               here.call->describe());
    time_us = std::max(time_us, here.time_us + 1);
  }
  for (size_t r = 0; r < group.ranks.size(); ++r) {
    devices_[static_cast<size_t>(group.ranks[r])]->pass(*group.here[r].lane, time_us);
    group.here[r] = {};
    movable.push_back(group.ranks[r]);
  }
  group.num_here = 0;
  ++num_meetings_;
}

std::string NullWorld::stuck() const {
  std::string text;
  for (const Group& group : groups_) {
    if (group.num_here == 0) continue;
    std::string waiting, missing, call;
    for (size_t r = 0; r < group.ranks.size(); ++r) {
      const int rank = group.ranks[r];
      if (group.here[r].lane != nullptr) {
        waiting += fmt::format("{}{}", waiting.empty() ? "" : ", ", rank);
        call = group.here[r].call->describe();
      } else if (missing.empty()) {
        missing =
            fmt::format("rank {} does not come: {}", rank, devices_[static_cast<size_t>(rank)]->where());
      }
    }
    text += fmt::format("{}{} (channel {}): rank {} waits for ever in {}; {}", text.empty() ? "" : "\n",
                        group.name, group.channel, waiting, call, missing);
  }
  for (size_t rank = 0; text.empty() && rank < devices_.size(); ++rank) {
    if (!devices_[rank]->idle())
      text = fmt::format("rank {} waits for ever: {}", rank, devices_[rank]->where());
  }
  return text;
}

std::vector<const NullCall*> NullWorld::enqueued(int rank) const {
  std::vector<const NullCall*> calls;
  for (const auto* op : devices_[static_cast<size_t>(rank)]->enqueued()) {
    if (op->fn == null::meeting_function()) calls.push_back(static_cast<const NullCall*>(op->args));
  }
  return calls;
}

}  // namespace weft::comm

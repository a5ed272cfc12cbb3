#include "comm/local/local_world.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "base/error.h"
#include "comm/local/local_communicator.h"

namespace weft::comm {

struct LocalWorld::Impl {
  using Key = std::tuple<std::string, std::vector<int>, int>;  // group, ranks, channel
  struct Entry {
    std::unique_ptr<local::Group> group;
    std::set<int> joined;  // ranks of the world that ever had a communicator
    std::set<int> open;    // and those that have one now
  };

  int world_size = 0;
  std::chrono::milliseconds deadline{0};
  local::AbortFlag abort;
  std::mutex mutex;
  std::map<Key, Entry> entries;
  std::vector<std::unique_ptr<local::Group>> closed;  // kept for ops and graphs that still point to them

  void close(const Key& key, int rank) {
    const std::lock_guard lock(mutex);
    const auto it = entries.find(key);
    it->second.open.erase(rank);
    if (!it->second.open.empty() || it->second.joined.size() != std::get<1>(key).size()) return;
    closed.push_back(std::move(it->second.group));
    entries.erase(it);
  }
};

LocalWorld::LocalWorld(int world_size, std::chrono::milliseconds deadline) : impl_(std::make_unique<Impl>()) {
  WEFT_CHECK(world_size >= 1, "LocalWorld: world_size is {}; it must be positive", world_size);
  WEFT_CHECK(deadline.count() > 0, "LocalWorld: deadline is {} ms; it must be positive", deadline.count());
  impl_->world_size = world_size;
  // A longer one would overflow the clock.
  impl_->deadline = std::min<std::chrono::milliseconds>(deadline, std::chrono::hours(24 * 365));
}

LocalWorld::~LocalWorld() = default;

int LocalWorld::world_size() const { return impl_->world_size; }

std::unique_ptr<Communicator> LocalWorld::make_communicator(int rank, const std::string& group,
                                                            const std::vector<int>& ranks, int channel) {
  WEFT_CHECK(!ranks.empty() && ranks.size() <= static_cast<size_t>(local::kMaxGroupSize),
             "group '{}' has {} ranks; 1 to {} are possible", group, ranks.size(), local::kMaxGroupSize);
  const bool ascending =
      std::adjacent_find(ranks.begin(), ranks.end(), std::greater_equal<>()) == ranks.end();
  WEFT_CHECK(ascending && ranks.front() >= 0 && ranks.back() < impl_->world_size,
             "group '{}': ranks [{}] must ascend and lie in a world of {}", group, fmt::join(ranks, ", "),
             impl_->world_size);
  const auto found = std::find(ranks.begin(), ranks.end(), rank);
  WEFT_CHECK(found != ranks.end(), "group '{}': rank {} is not in [{}]", group, rank, fmt::join(ranks, ", "));

  const Impl::Key key{group, ranks, channel};
  const std::lock_guard lock(impl_->mutex);
  Impl::Entry& entry = impl_->entries[key];
  if (entry.group == nullptr) {
    entry.group = std::make_unique<local::Group>(group, ranks, channel, impl_->deadline, impl_->abort);
  }
  WEFT_CHECK(
      entry.joined.insert(rank).second,
      "group '{}' (channel {}): rank {} has or had a communicator already; give each one its own channel, "
      "or close those of all ranks first",
      group, channel, rank);
  entry.open.insert(rank);
  return std::make_unique<local::LocalCommunicator>(
      *entry.group, static_cast<int>(found - ranks.begin()),
      [impl = impl_.get(), key, rank] { impl->close(key, rank); });
}

void LocalWorld::abort(const std::string& reason) {
  impl_->abort.set(reason);
  const std::lock_guard lock(impl_->mutex);
  for (const auto& [key, entry] : impl_->entries) {
    entry.group->ops.wake();
    entry.group->host.wake();
  }
  for (const auto& group : impl_->closed) group->ops.wake();  // ops may outlive their communicator
}

bool LocalWorld::aborted() const { return impl_->abort.is_set(); }

}  // namespace weft::comm

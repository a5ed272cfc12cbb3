#include "device/cpu/core.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/math.h"
#include "device/cpu/host_memory.h"

namespace weft::device::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

void FreeDeleter::operator()(void* memory) const noexcept { std::free(memory); }

Core::Core(CpuOptions device_options)
    : options(std::move(device_options)),
      helpers(options.num_threads),
      context(helpers),
      runner(options.name, health, context, options.fail_op),
      random(options.random_order == 0
                 ? nullptr
                 : std::make_unique<RandomExecutor>(options.random_order, runner, threads)) {
  health.set_wake([this] {
    for (const auto& stream : streams()) stream->progress().wake();
  });
}

std::shared_ptr<StreamQueue> Core::add_stream(const std::string& name) {
  const std::lock_guard lock(mutex_);
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(), [](const auto& s) { return s.expired(); }),
                 streams_.end());
  std::function<void()> on_push;
  if (random != nullptr) on_push = [this] { random->notify(); };
  auto queue = std::make_shared<StreamQueue>(name, num_streams_++, on_push);
  if (random != nullptr) random->add(queue);
  streams_.push_back(queue);
  order.add_stream(name);
  return queue;
}

bool Core::drops_wait() { return num_waits.fetch_add(1) == options.drop_wait; }

std::vector<std::shared_ptr<StreamQueue>> Core::streams() const {
  std::vector<std::shared_ptr<StreamQueue>> live;
  const std::lock_guard lock(mutex_);
  for (const auto& stream : streams_) {
    if (auto queue = stream.lock()) live.push_back(std::move(queue));
  }
  return live;
}

Memory Core::allocate(size_t num_bytes, const std::string& name) {
  sweep();
  if (num_bytes >= kHugePage) {  // asking the kernel costs more than a small buffer is worth
    const HostMemory memory = read_host_memory();
    // Memory that no one has touched yet still counts as free there.
    const size_t promised = memory.total_bytes - std::min(memory.total_bytes, allocated_bytes.load());
    const size_t available = std::min(memory.free_bytes, promised);
    WEFT_CHECK(num_bytes <= available,
               "{}: buffer '{}' needs {} bytes and {} are available; lower the memory that the KV cache may "
               "take, or give the process more",
               options.name, name, num_bytes, available);
  }
  // Large buffers are streamed through: huge pages spare the TLB.
  const size_t alignment = num_bytes >= kHugePage ? kHugePage : kAlignment;
  const size_t rounded = round_up(std::max(num_bytes, size_t{1}), kAlignment);
  Memory memory(std::aligned_alloc(alignment, round_up(rounded, alignment)));
  WEFT_CHECK(memory != nullptr, "{}: no memory for buffer '{}' of {} bytes", options.name, name, num_bytes);
  // Advice: the kernel may lack huge pages, and nothing depends on them.
  if (alignment == kHugePage) (void)madvise(memory.get(), rounded, MADV_HUGEPAGE);
  allocated_bytes += num_bytes;
  return memory;
}

void Core::retire(Memory memory, size_t num_bytes) {
  Retired entry{.memory = std::move(memory), .num_bytes = num_bytes, .users = {}};
  for (auto& stream : streams()) {
    const uint64_t position = stream->num_pushed();
    if (stream->progress().completed() < position) entry.users.emplace_back(std::move(stream), position);
  }
  {
    const std::lock_guard lock(mutex_);
    retired_.push_back(std::move(entry));
  }
  sweep();
}

void Core::sweep() {
  std::list<Retired> unused;  // freed outside the lock
  const std::lock_guard lock(mutex_);
  for (auto it = retired_.begin(); it != retired_.end();) {
    const bool in_use = std::any_of(it->users.begin(), it->users.end(), [](const auto& user) {
      return user.first->progress().completed() < user.second;
    });
    const auto next = std::next(it);
    if (!in_use) {
      allocated_bytes -= it->num_bytes;
      unused.splice(unused.end(), retired_, it);
    }
    it = next;
  }
}

void Core::capture_begins(const std::string& stream) {
  const std::lock_guard lock(mutex_);
  capturing_.push_back(stream);
  num_captures_.store(capturing_.size());
}

void Core::capture_ends(const std::string& stream) {
  const std::lock_guard lock(mutex_);
  capturing_.erase(std::find(capturing_.begin(), capturing_.end(), stream));
  num_captures_.store(capturing_.size());
}

void Core::check_no_capture(std::string_view where, std::string_view what) const {
  if (num_captures_.load(std::memory_order_acquire) == 0) return;
  const std::lock_guard lock(mutex_);
  if (capturing_.empty()) return;
  WEFT_THROW(
      "{} {}: stream '{}' is capturing and this stream has not joined; let it wait for an event recorded "
      "in the capture, or do this outside",
      where, what, capturing_.front());
}

}  // namespace weft::device::cpu

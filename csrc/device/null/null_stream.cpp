#include "device/null/null_stream.h"

#include <utility>

#include "base/error.h"
#include "device/stream_checks.h"

namespace weft::device::null {
namespace {

bool covers(const Clock& clock, const Clock& other) {
  for (size_t i = 0; i < other.size(); ++i) {
    if (clock_at(clock, i) < other[i]) return false;
  }
  return true;
}

}  // namespace

void NullEvent::check_not_captured() const {
  WEFT_CHECK(record.capture == nullptr, "{}: the event's last record is part of a capture",
             core_->options.name);
}

bool NullEvent::reached() const {
  if (!record.set) return true;
  const auto& queue = core_->queues[record.lane];
  return queue == nullptr || queue->cursor.passed(record.mark);
}

bool NullEvent::query() const {
  check_not_captured();
  return reached();
}

void NullEvent::wait_idle(std::chrono::milliseconds /*timeout*/) {
  check_not_captured();
  core_->advance();
  WEFT_CHECK(reached(),
             "{}: nothing that the host could wait for ends the wait for an event of stream '{}': {}",
             core_->options.name, core_->queues[record.lane]->name, core_->where());
  core_->order.host_saw(record.clock);
}

NullStream::NullStream(Device& device, std::shared_ptr<Core> core, const std::string& name)
    : device_(device),
      core_(std::move(core)),
      id_(static_cast<uint32_t>(core_->queues.size())),
      queue_(std::make_shared<Queue>()),
      where_(core_->options.name + " " + name),
      cache_(core_->buffers) {
  queue_->name = name;
  queue_->cursor.script = &queue_->script;
  queue_->cursor.stream = queue_->name;
  core_->queues.push_back(queue_);
  core_->order.add_stream(name);
}

NullStream::~NullStream() {
  if (core_->capturing != nullptr && core_->capturing == capture_.get()) {
    capture_->active = false;
    core_->capturing = nullptr;
  }
  core_->order.host_saw(end_clock());
  core_->queues[id_] = nullptr;
}

Clock NullStream::end_clock() const { return core_->order.snapshot(id_, num_pushed_, clock_); }

void NullStream::check_no_capture(std::string_view what) const {
  WEFT_CHECK(core_->capturing == nullptr,
             "{}: '{}' while another stream of the device captures, which this one has not joined", where_,
             what);
}

// Every access lies in one live buffer; and if order is checked, follows what it conflicts with.
void NullStream::note_accesses(const Op& op) {
  const bool capturing = is_capturing();
  const bool check_order = core_->options.check_order;
  accesses_.clear();
  op.for_each_access([&](const Access& access) {
    const auto& buffer = cache_.find(access, where_, op.name);
    if (capturing && capture_->buffers.insert(buffer.get()).second)
      capture_->graph->buffers.push_back(buffer);
    if (!check_order) return;
    const size_t begin = reinterpret_cast<uintptr_t>(access.data) - buffer->begin;
    accesses_.push_back({buffer, begin, begin + access.num_bytes, access.write, op.name});
  });
  if (!check_order) return;
  if (capturing) {
    const uint64_t position = capture_->graph->lanes[lane_]->ops.size() + 1;
    for (const auto& access : accesses_) {
      capture_->history.add(static_cast<uint32_t>(lane_), position, capture_->clocks[lane_], access, where_);
    }
    capture_->accesses.insert(capture_->accesses.end(), accesses_.begin(), accesses_.end());
  } else {
    core_->order.add(id_, num_pushed_ + 1, clock_, accesses_, where_);
  }
}

void NullStream::enqueue(const Op& op) {
  const bool capturing = is_capturing();
  if (!capturing) check_no_capture(op.name);
  note_accesses(op);
  Script& to = script();
  if (op.kind == OpKind::kCollective) {
    auto& memory = capturing ? capture_->graph->collective_memory : core_->collective_memory;
    const NullCollective* collective = memory.add(op);
    to.commands.push_back(
        {.type = Command::Type::kCollective, .index = to.collectives.size(), .position = to.ops.size()});
    to.collectives.push_back(collective);
    (capturing ? capture_->graph->collectives : core_->enqueued).push_back(collective);
  }
  to.ops.push_back({op.name, op.tag});
  if (capturing) {
    capture_->graph->op_names.push_back(op.name);
    advance(capture_->clocks[lane_], lane_, to.ops.size());
  } else {
    ++num_pushed_;
  }
}

void NullStream::record(Event& event) {
  auto& target = own<NullEvent>(event, core_, where_, "event");
  if (target.awaited && core_->num_records++ == core_->options.drop_record) return;
  Record& record = target.record;
  Script& to = script();
  record.set = true;
  record.mark = to.num_marks++;
  if (is_capturing()) {
    record.capture = capture_;
    record.lane = static_cast<uint32_t>(lane_);
    record.clock = capture_->clocks[lane_];
  } else {
    record.capture = nullptr;
    record.lane = id_;
    record.clock = end_clock();
  }
  to.commands.push_back({.type = Command::Type::kMark, .index = record.mark, .position = to.ops.size()});
}

void NullStream::wait(Event& event) {
  auto& target = own<NullEvent>(event, core_, where_, "event");
  target.awaited = true;
  const Record& record = target.record;
  const bool capturing = is_capturing();
  if (record.capture == nullptr) {
    check_wait_outside_capture(where_, capturing, record.set);
    if (!record.set || record.lane == id_) return;
    const bool implied = core_->options.check_order && covers(clock_, record.clock);
    if (!implied && core_->drops_wait()) return;
    join(clock_, record.clock);
  } else {
    check_wait_in_capture(where_, record.capture->active, capturing, record.capture == capture_);
    if (capturing && record.lane == lane_) return;
    const bool implied = capturing && covers(capture_->clocks[lane_], record.clock);
    if (!implied && core_->drops_wait()) return;
    if (!capturing) {
      capture_ = record.capture;
      lane_ = capture_->add_lane(name());
    }
    join(capture_->clocks[lane_], record.clock);
  }
  Script& to = script();
  to.commands.push_back(
      {.type = Command::Type::kWait, .lane = record.lane, .index = record.mark, .position = to.ops.size()});
}

void NullStream::begin_capture() {
  WEFT_CHECK(!is_capturing(), "{}: begin_capture on a stream that is capturing already", where_);
  check_no_capture("begin_capture");
  capture_ = std::make_shared<Capture>();
  lane_ = capture_->add_lane(name());
  core_->capturing = capture_.get();
}

std::unique_ptr<device::Graph> NullStream::end_capture() {
  WEFT_CHECK(is_capturing() && lane_ == 0, "{}: end_capture on a stream that began no capture", where_);
  core_->capturing = nullptr;
  return std::make_unique<NullGraph>(core_, std::exchange(capture_, nullptr)->finish());
}

void NullStream::replay(device::Graph& graph) {
  WEFT_CHECK(!is_capturing(), "{}: replay on a stream that is capturing", where_);
  check_no_capture("replay");
  auto& null_graph = own<NullGraph>(graph, core_, where_, "graph");
  const auto& captured = null_graph.graph;
  if (null_graph.checked_at != core_->buffers.num_removed()) {
    check_alive(where_, captured->buffers);
    null_graph.checked_at = core_->buffers.num_removed();
  }
  join(clock_, captured->last_run);
  core_->order.add(id_, num_pushed_ + 1, clock_, captured->accesses, where_);
  Script& to = queue_->script;
  to.commands.push_back(
      {.type = Command::Type::kReplay, .index = to.graphs.size(), .position = to.ops.size()});
  to.graphs.push_back(captured);
  core_->enqueued.insert(core_->enqueued.end(), captured->collectives.begin(), captured->collectives.end());
  ++num_pushed_;
  captured->last_run = end_clock();
}

void NullStream::wait_idle(std::chrono::milliseconds /*timeout*/) {
  WEFT_CHECK(!is_capturing(), "{}: wait_idle on a stream that is capturing, where nothing runs", where_);
  core_->advance();
  WEFT_CHECK(queue_->cursor.done(), "{}: nothing that the host could wait for makes the stream idle: {}",
             where_, core_->where());
  core_->order.host_saw(end_clock());
}

void NullStream::copy(void* dst, const void* src, size_t num_bytes) {
  const std::array<Access, 2> accesses{device::read(src, num_bytes), device::write(dst, num_bytes)};
  if (num_bytes != 0) enqueue({.name = "copy", .tag = tag_, .accesses = accesses});
}

void NullStream::fill(void* dst, uint8_t /*value*/, size_t num_bytes) {
  const std::array<Access, 1> accesses{device::write(dst, num_bytes)};
  if (num_bytes != 0) enqueue({.name = "fill", .tag = tag_, .accesses = accesses});
}

}  // namespace weft::device::null

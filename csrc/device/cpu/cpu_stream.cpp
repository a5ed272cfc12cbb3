#include "device/cpu/cpu_stream.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "device/stream_checks.h"

namespace weft::device::cpu {

CpuGraph::CpuGraph(std::shared_ptr<Core> core, std::shared_ptr<GraphState> state)
    : core_(std::move(core)), state_(std::move(state)) {}

void CpuGraph::check_buffers() {
  const uint64_t num_removed = core_->buffers.num_removed();
  if (checked_at_.load() == num_removed) return;
  check_alive(core_->options.name, state_->buffers);
  checked_at_.store(num_removed);
}

CpuStream::CpuStream(Device& device, std::shared_ptr<Core> core, const std::string& name)
    : device_(device),
      core_(std::move(core)),
      queue_(core_->add_stream(name)),
      where_(core_->options.name + " " + name),
      cache_(core_->buffers) {
  if (core_->random == nullptr) thread_ = std::thread([this] { run(); });
}

CpuStream::~CpuStream() {
  if (is_capturing()) {
    if (began_capture_) {
      core_->capture_ends(name());
      capture_->abandon();
    } else {
      capture_->spoil(fmt::format("stream '{}', which had joined the capture, was destroyed", name()));
    }
  }
  if (core_->random != nullptr) {
    core_->random->remove(queue_);
  } else {
    queue_->close();
    thread_.join();
  }
  queue_->release();
  core_->order.host_saw(end_clock());
}

Clock CpuStream::end_clock() const {
  return core_->order.snapshot(queue_->id(), queue_->num_pushed(), clock_);
}

void CpuStream::run() {
  while (const Command* command = queue_->next(true)) {
    switch (command->type) {
      case Command::Type::kOp:
        core_->runner.run(*command, queue_->name());
        break;
      case Command::Type::kWait:
        queue_->wait_target(*command).progress().wait(command->position);
        break;
      case Command::Type::kReplay:
        GraphState::execute(queue_->graph(*command), command->position, core_->runner, core_->threads);
        break;
    }
    queue_->done();
  }
}

void CpuStream::enqueue(const Op& op) {
  const bool capturing = is_capturing();
  if (!capturing) core_->check_no_capture(where_, op.name);
  accesses_.clear();
  op.for_each_access([&](const Access& access) {
    const auto& buffer = cache_.find(access, where_, op.name);
    if (!capturing && !kChecked) return;
    const size_t begin = reinterpret_cast<uintptr_t>(access.data) - buffer->begin;
    accesses_.push_back({buffer, begin, begin + access.num_bytes, access.write, op.name});
  });
  if (capturing) {
    capture_->add_op(lane_, op, accesses_, where_);
  } else {
    core_->order.add(queue_->id(), queue_->num_pushed() + 1, clock_, accesses_, where_);
    queue_->push_op(op);
  }
}

void CpuStream::record(Event& event) {
  auto& target = own<CpuEvent>(event, core_, where_, "event");
  EventRecord record;
  record.stream = queue_;
  if (is_capturing()) {
    record.capture = capture_;
    record.lane = lane_;
    record.position = capture_->position(lane_);
    record.clock = capture_->clock(lane_);
    advance(record.clock, lane_, record.position);
  } else {
    record.position = queue_->num_pushed();
    record.clock = end_clock();
  }
  target.set_record(std::move(record));
}

void CpuStream::wait(Event& event) {
  const EventRecord& record = own<CpuEvent>(event, core_, where_, "event").last_record();
  const bool capturing = is_capturing();
  if (record.capture == nullptr) {
    check_wait_outside_capture(where_, capturing, record.stream != nullptr);
    if (record.stream == nullptr || record.stream == queue_ || core_->drops_wait()) return;
    if (record.stream->progress().completed() < record.position) {
      queue_->push_wait(record.stream, record.position);
    }
    join(clock_, record.clock);
    return;
  }
  check_wait_in_capture(where_, record.capture->active(), capturing, record.capture == capture_);
  if (capturing && record.lane == lane_) return;
  if (core_->drops_wait()) return;
  if (!capturing) {
    capture_ = record.capture;
    lane_ = capture_->add_lane(name());
    began_capture_ = false;
  }
  capture_->add_wait(lane_, record.lane, record.position, record.clock);
}

void CpuStream::begin_capture() {
  WEFT_CHECK(!is_capturing(), "{}: begin_capture on a stream that is capturing already", where_);
  core_->capture_begins(name());
  capture_ = std::make_shared<Capture>(name());
  lane_ = 0;
  began_capture_ = true;
}

std::unique_ptr<Graph> CpuStream::end_capture() {
  WEFT_CHECK(is_capturing(), "{}: end_capture on a stream that is not capturing", where_);
  WEFT_CHECK(began_capture_, "{}: end_capture on a stream that joined a capture; end it where it began",
             where_);
  core_->capture_ends(name());
  return std::make_unique<CpuGraph>(core_, std::exchange(capture_, nullptr)->finish());
}

void CpuStream::replay(Graph& graph) {
  WEFT_CHECK(!is_capturing(), "{}: replay on a stream that is capturing", where_);
  auto& cpu_graph = own<CpuGraph>(graph, core_, where_, "graph");
  core_->check_no_capture(where_, "replay");
  cpu_graph.check_buffers();
  const auto& state = cpu_graph.state();
  if constexpr (kChecked) {  // one command with all the graph's accesses, after the graph's last run
    join(clock_, state->last_run);
    core_->order.add(queue_->id(), queue_->num_pushed() + 1, clock_, state->accesses, where_);
  }
  queue_->push_replay(state, state->num_enqueued.fetch_add(1));
  if constexpr (kChecked) state->last_run = end_clock();
}

void CpuStream::wait_idle(std::chrono::milliseconds timeout) {
  WEFT_CHECK(!is_capturing(), "{}: wait_idle on a stream that is capturing, where nothing runs", where_);
  wait_on_host(*core_, *queue_, queue_->num_pushed(), timeout, "the stream to be idle");
  core_->order.host_saw(end_clock());
}

namespace {

constexpr int64_t kCopyGrain = 1 << 18;  // bytes; less is not worth a second thread

struct CopyArgs {
  std::byte* dst;
  const std::byte* src;
  size_t num_bytes;
};

void run_copy(const CopyArgs& args, ExecContext& context) {
  context.parallel_for(static_cast<int64_t>(args.num_bytes), kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(args.dst + begin, args.src + begin, static_cast<size_t>(end - begin));
  });
}

struct FillArgs {
  std::byte* dst;
  size_t num_bytes;
  uint8_t value;
};

void run_fill(const FillArgs& args, ExecContext& context) {
  context.parallel_for(static_cast<int64_t>(args.num_bytes), kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memset(args.dst + begin, args.value, static_cast<size_t>(end - begin));
  });
}

}  // namespace

void CpuStream::copy(void* dst, const void* src, size_t num_bytes) {
  if (num_bytes == 0) return;
  const CopyArgs args{static_cast<std::byte*>(dst), static_cast<const std::byte*>(src), num_bytes};
  WEFT_CHECK(args.dst + num_bytes <= args.src || args.src + num_bytes <= args.dst,
             "{} op 'copy': source and target of {} bytes overlap", where_, num_bytes);
  launch<CopyArgs>("copy", run_copy, args, {read(src, num_bytes), write(dst, num_bytes)});
}

void CpuStream::fill(void* dst, uint8_t value, size_t num_bytes) {
  if (num_bytes == 0) return;
  const FillArgs args{static_cast<std::byte*>(dst), num_bytes, value};
  launch<FillArgs>("fill", run_fill, args, {write(dst, num_bytes)});
}

}  // namespace weft::device::cpu

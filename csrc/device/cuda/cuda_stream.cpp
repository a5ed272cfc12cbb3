#include "device/cuda/cuda_stream.h"

#include <thread>
#include <utility>

#include "base/error.h"
#include "device/stream_checks.h"

namespace weft::device::cuda {
namespace {

/// How long a stream that is destroyed may take to become empty.
constexpr std::chrono::milliseconds kDrainTimeout{20000};

}  // namespace

CudaGraph::CudaGraph(std::shared_ptr<Core> core, std::shared_ptr<GraphState> state)
    : core_(std::move(core)), state_(std::move(state)) {}

// Queued replays may still need it.
CudaGraph::~CudaGraph() {
  core_->retire([state = std::move(state_)] {});
}

std::vector<std::string> CudaGraph::op_names() const {
  std::vector<std::string> names;
  for (const CapturedCall& call : state_->calls) {
    if (call.type == CapturedCall::Type::kOp) names.emplace_back(call.op);
  }
  return names;
}

void CudaGraph::check_buffers() {
  const uint64_t num_removed = core_->buffers.num_removed();
  if (checked_at_ == num_removed) return;
  check_alive(core_->options.name, state_->buffers);
  checked_at_ = num_removed;
}

CudaStream::CudaStream(Device& device, std::shared_ptr<Core> core, std::string name)
    : device_(device),
      core_(std::move(core)),
      name_(std::move(name)),
      where_(core_->options.name + " " + name_),
      handle_(make_stream_handle()),
      idle_(make_event_handle(false)),
      tail_{.can_overlap = true},
      progress_(core_->progress->word(name_)),
      cache_(core_->buffers) {
  core_->add_stream(handle_.get());
}

CudaStream::~CudaStream() {
  (void)cudaSetDevice(core_->options.ordinal);
  core_->remove_stream(handle_.get());
  if (is_capturing()) {
    if (began_capture_) {
      core_->capture_ends(name_);
      capture_->abandon();
      cudaGraph_t graph = nullptr;
      (void)cudaStreamEndCapture(handle_.get(), &graph);
      (void)cudaGetLastError();  // streams that were not joined back are no surprise here
      if (graph != nullptr) (void)cudaGraphDestroy(graph);
    } else {
      capture_->spoil(fmt::format("stream '{}', which had joined the capture, was destroyed", name_));
      capture_->keep(std::move(handle_));
      return;
    }
  }
  // A kernel that never ends must not hold the host: then the stream is left to the driver.
  try {
    check_cuda(cudaEventRecord(idle_.get(), handle_.get()), "~Stream");
    const auto deadline = std::chrono::steady_clock::now() + kDrainTimeout;
    while (cudaEventQuery(idle_.get()) == cudaErrorNotReady) {
      if (std::chrono::steady_clock::now() > deadline) {
        (void)handle_.release();
        (void)idle_.release();
        return;
      }
      std::this_thread::yield();
    }
  } catch (const Error&) {
    // The device has failed, and said so.
  }
}

const OpName* CudaStream::intern(std::string_view op) {
  const OpName*& name = names_[op.data()];
  if (name == nullptr || name->op != op) name = core_->intern(name_, op);
  return name;
}

bool CudaStream::fails_now(std::string_view lane, std::string_view op, CudaContext& context) {
  const int64_t index = core_->num_ops.fetch_add(1, std::memory_order_relaxed);
  if (index != core_->options.fail_op) return false;
  if (core_->options.hold != nullptr) {
    core_->options.hold(context);
    return false;
  }
  core_->fail_op(lane, op, fmt::format("op {} was told to fail", index));
  return true;
}

void CudaStream::enqueue(const Op& op) {
  const bool capturing = is_capturing();
  if (!capturing) core_->check_no_capture(where_, op.name);
  op.for_each_access([&](const Access& access) {
    const auto& buffer = cache_.find(access, where_, op.name);
    if (capturing) capture_->add_buffer(buffer);
  });
  const OpName* name = intern(op.name);
  core_->bind();
  CudaContext context(handle_.get(), tail_, core_->site(name, progress_, op.stamp), core_->parts());
  if (capturing) {
    capture_->add_op(lane_, op, name);
    op.trampoline(op.fn, op.args, context);
    return;
  }
  if (core_->health.failed().load(std::memory_order_relaxed) || fails_now(name_, op.name, context)) return;
  try {
    if (!core_->trace.active()) {
      op.trampoline(op.fn, op.args, context);
      return;
    }
    EventHandle start = core_->trace.begin(handle_.get());
    end_overlap();
    op.trampoline(op.fn, op.args, context);
    core_->trace.end(handle_.get(), std::move(start), name_, op.name, op.tag, op.kind);
    end_overlap();
  } catch (const std::exception& error) {
    core_->fail_op(name_, op.name, error.what());
  }
}

void CudaStream::record(Event& event) {
  auto& target = own<CudaEvent>(event, core_, where_, "event");
  core_->bind();
  EventRecord record{.stream = name_, .handle = handle_.get()};
  if (is_capturing()) {
    record.capture = capture_;
    record.lane = lane_;
    record.mark = capture_->add_record(lane_);
    record.position = capture_->position(lane_);
    record.clock = capture_->clock(lane_);
  }
  end_overlap();
  check_cuda(cudaEventRecord(target.handle(), handle_.get()), "cudaEventRecord");
  target.set_record(std::move(record));
}

void CudaStream::wait(Event& event) {
  auto& target = own<CudaEvent>(event, core_, where_, "event");
  const EventRecord& record = target.last_record();
  const bool capturing = is_capturing();
  core_->bind();
  if (record.capture == nullptr) {
    check_wait_outside_capture(where_, capturing, record.handle != nullptr);
    if (record.handle == nullptr || record.handle == handle_.get()) return;
    end_overlap();
    check_cuda(cudaStreamWaitEvent(handle_.get(), target.handle(), 0), "cudaStreamWaitEvent");
    return;
  }
  check_wait_in_capture(where_, record.capture->active(), capturing, record.capture == capture_);
  if (capturing && record.lane == lane_) return;
  end_overlap();
  check_cuda(cudaStreamWaitEvent(handle_.get(), target.handle(), 0), "cudaStreamWaitEvent");
  if (!capturing) {
    capture_ = record.capture;
    lane_ = capture_->add_lane(name_, progress_);
    began_capture_ = false;
  }
  capture_->add_wait(lane_, record.mark, record.lane, record.position, record.clock);
}

void CudaStream::begin_capture() {
  WEFT_CHECK(!is_capturing(), "{}: begin_capture on a stream that is capturing already", where_);
  core_->bind();
  end_overlap();
  // Thread-local: other rank threads go on with their own work meanwhile.
  check_cuda(cudaStreamBeginCapture(handle_.get(), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  core_->capture_begins(name_);
  capture_ = std::make_shared<Capture>(name_, progress_);
  lane_ = 0;
  began_capture_ = true;
}

std::unique_ptr<Graph> CudaStream::end_capture() {
  WEFT_CHECK(is_capturing(), "{}: end_capture on a stream that is not capturing", where_);
  WEFT_CHECK(began_capture_, "{}: end_capture on a stream that joined a capture; end it where it began",
             where_);
  core_->bind();
  core_->capture_ends(name_);
  end_overlap();
  cudaGraph_t captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(handle_.get(), &captured);
  (void)cudaGetLastError();
  const GraphHandle graph(captured);
  const std::shared_ptr<Capture> capture = std::exchange(capture_, nullptr);
  std::shared_ptr<GraphState> state = capture->finish();
  check_cuda(ended, "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  const RelaxedCapture relaxed;  // another stream of this thread may be capturing
  check_cuda(cudaGraphInstantiate(&exec, graph.get(), 0), "cudaGraphInstantiate");
  state->exec.reset(exec);
  // Now, and not in the first step that needs it.
  check_cuda(cudaGraphUpload(exec, handle_.get()), "cudaGraphUpload");
  return std::make_unique<CudaGraph>(core_, std::move(state));
}

void CudaStream::replay(Graph& graph) {
  WEFT_CHECK(!is_capturing(), "{}: replay on a stream that is capturing", where_);
  auto& cuda_graph = own<CudaGraph>(graph, core_, where_, "graph");
  core_->check_no_capture(where_, "replay");
  cuda_graph.check_buffers();
  core_->bind();
  if (core_->health.failed().load(std::memory_order_relaxed)) return;
  const std::shared_ptr<GraphState>& state = cuda_graph.state();
  last_replay_ = state;
  end_overlap();
  const int64_t first = core_->num_ops.load(std::memory_order_relaxed);
  const int64_t fail_op = core_->options.fail_op;
  const bool fails = fail_op >= first && fail_op < first + static_cast<int64_t>(state->num_ops);
  if (fails || core_->trace.active()) {
    run_op_by_op(*state);
    return;
  }
  core_->num_ops.fetch_add(static_cast<int64_t>(state->num_ops), std::memory_order_relaxed);
  check_cuda(cudaGraphLaunch(state->exec.get(), handle_.get()), "cudaGraphLaunch");
}

void CudaStream::run_op_by_op(const GraphState& graph) {
  std::vector<StreamHandle> others;
  std::vector<cudaStream_t> lanes = {handle_.get()};
  for (size_t lane = 1; lane < graph.lanes.size(); ++lane) {
    others.push_back(make_stream_handle());  // destroying it leaves it to finish
    lanes.push_back(others.back().get());
  }
  StreamTail tail{};  // traced or failing: nothing is to overlap
  std::vector<EventHandle> marks;
  for (size_t i = 0; i < graph.num_marks; ++i) marks.push_back(make_event_handle(false));
  for (const CapturedCall& call : graph.calls) {
    const cudaStream_t stream = lanes[call.lane];
    if (call.type == CapturedCall::Type::kRecord) {
      check_cuda(cudaEventRecord(marks[call.mark].get(), stream), "cudaEventRecord");
      continue;
    }
    if (call.type == CapturedCall::Type::kWait) {
      check_cuda(cudaStreamWaitEvent(stream, marks[call.mark].get(), 0), "cudaStreamWaitEvent");
      continue;
    }
    const std::string& lane = graph.lanes[call.lane];
    CudaContext context(stream, tail, core_->site(call.name, graph.progress[call.lane], call.stamp),
                        core_->parts());
    if (fails_now(lane, call.op, context)) return;
    EventHandle start = core_->trace.begin(stream);
    call.trampoline(call.fn, graph.args_of(call), context);
    core_->trace.end(stream, std::move(start), lane, call.op, call.tag, call.kind);
  }
}

void CudaStream::wait_idle(std::chrono::milliseconds timeout) {
  WEFT_CHECK(!is_capturing(), "{}: wait_idle on a stream that is capturing, where nothing runs", where_);
  core_->bind();
  core_->check();
  end_overlap();
  check_cuda(cudaEventRecord(idle_.get(), handle_.get()), "cudaEventRecord");
  core_->wait(idle_.get(), timeout, name_, "the stream to be idle", [&] {
    if (last_replay_ == nullptr) {
      return fmt::format("the last kernel to run in the stream is of {}", core_->progress->last_op(name_));
    }
    // A replay, or ops behind it; the lanes' words tell.
    std::string text = "since the replay of a graph: ";
    for (size_t i = 0; i < last_replay_->lanes.size(); ++i) {
      const std::string& lane = last_replay_->lanes[i];
      text += fmt::format("{}lane '{}' in {}", i == 0 ? "" : ", ", lane, core_->progress->last_op(lane));
    }
    return text;
  });
  last_replay_ = nullptr;
}

namespace {

struct CopyArgs {
  std::byte* dst;
  const std::byte* src;
  size_t num_bytes;
};

void run_copy(const CopyArgs& args, ExecContext& context) {
  check_cuda(cudaMemcpyAsync(args.dst, args.src, args.num_bytes, cudaMemcpyDefault,
                             static_cast<CudaContext&>(context).foreign_stream()),
             "cudaMemcpyAsync");
}

struct FillArgs {
  std::byte* dst;
  size_t num_bytes;
  uint8_t value;
};

void run_fill(const FillArgs& args, ExecContext& context) {
  check_cuda(cudaMemsetAsync(args.dst, args.value, args.num_bytes,
                             static_cast<CudaContext&>(context).foreign_stream()),
             "cudaMemsetAsync");
}

}  // namespace

void CudaStream::copy(void* dst, const void* src, size_t num_bytes) {
  if (num_bytes == 0) return;
  const CopyArgs args{static_cast<std::byte*>(dst), static_cast<const std::byte*>(src), num_bytes};
  uint64_t* const stamp = std::exchange(stamp_, nullptr);
  WEFT_CHECK(args.dst + num_bytes <= args.src || args.src + num_bytes <= args.dst,
             "{} op 'copy': source and target of {} bytes overlap", where_, num_bytes);
  launch<CopyArgs>("copy", run_copy, args, {read(src, num_bytes), write(dst, num_bytes)});
  stamp_ = stamp;
}

void CudaStream::fill(void* dst, uint8_t value, size_t num_bytes) {
  if (num_bytes == 0) return;
  const FillArgs args{static_cast<std::byte*>(dst), num_bytes, value};
  uint64_t* const stamp = std::exchange(stamp_, nullptr);
  launch<FillArgs>("fill", run_fill, args, {write(dst, num_bytes)});
  stamp_ = stamp;
}

}  // namespace weft::device::cuda

#include "device/cuda/op_trace.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace weft::device::cuda {

void OpTrace::start() {
  const std::lock_guard lock(mutex_);
  entries_.clear();
  const StreamHandle stream = make_stream_handle();
  base_ = make_event_handle(true);
  check_cuda(cudaEventRecord(base_.get(), stream.get()), "start_trace");
  check_cuda(cudaEventSynchronize(base_.get()), "start_trace");
  base_us_ =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
  active_.store(true);
}

std::vector<OpSpan> OpTrace::take() {
  const std::lock_guard lock(mutex_);
  active_.store(false);
  std::vector<OpSpan> spans;
  for (const Entry& entry : entries_) {
    check_cuda(cudaEventSynchronize(entry.end.get()), "take_trace");
    float start_ms = 0.0F;
    float end_ms = 0.0F;
    check_cuda(cudaEventElapsedTime(&start_ms, base_.get(), entry.start.get()), "take_trace");
    check_cuda(cudaEventElapsedTime(&end_ms, base_.get(), entry.end.get()), "take_trace");
    spans.push_back({.stream = entry.stream,
                     .name = entry.op,
                     .tag = entry.tag,
                     .start_us = base_us_ + 1000.0 * static_cast<double>(start_ms),
                     .end_us = base_us_ + 1000.0 * static_cast<double>(end_ms),
                     .kind = entry.kind});
  }
  entries_.clear();
  std::stable_sort(spans.begin(), spans.end(),
                   [](const OpSpan& a, const OpSpan& b) { return a.end_us < b.end_us; });
  return spans;
}

EventHandle OpTrace::begin(cudaStream_t stream) {
  EventHandle start = make_event_handle(true);
  check_cuda(cudaEventRecord(start.get(), stream), "cudaEventRecord");
  return start;
}

void OpTrace::end(cudaStream_t stream, EventHandle start, const std::string& name, std::string_view op,
                  int32_t tag, OpKind kind) {
  EventHandle end = make_event_handle(true);
  check_cuda(cudaEventRecord(end.get(), stream), "cudaEventRecord");
  const std::lock_guard lock(mutex_);
  entries_.push_back({name, op, tag, kind, std::move(start), std::move(end)});
}

}  // namespace weft::device::cuda

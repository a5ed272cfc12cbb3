#include "device/cuda/progress_words.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"

namespace weft::device::cuda {

ProgressWords::ProgressWords() : reader_(make_stream_handle()), read_(make_event_handle(false)) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, kMaxWords * sizeof(void*)), "cudaMalloc");
  memory_.reset(memory);
  check_cuda(cudaMemset(memory, 0, kMaxWords * sizeof(void*)), "cudaMemset");
  check_cuda(cudaHostAlloc(&memory, sizeof(void*), cudaHostAllocPortable), "cudaHostAlloc");
  copy_.reset(memory);
}

const void** ProgressWords::word(const std::string& stream) {
  const std::lock_guard lock(mutex_);
  auto& word = words_[stream];
  // Past the last word, names share it: messages get vaguer, nothing else.
  if (word == nullptr)
    word = static_cast<const void**>(memory_.get()) + std::min(words_.size() - 1, kMaxWords - 1);
  return word;
}

std::string ProgressWords::last_op(const std::string& stream) const {
  constexpr char kUnknown[] = "an op that the GPU does not tell any more";
  const RelaxedCapture relaxed;
  const std::lock_guard lock(mutex_);
  const auto found = words_.find(stream);
  if (found == words_.end()) return "no op";
  if (cudaMemcpyAsync(copy_.get(), found->second, sizeof(void*), cudaMemcpyDefault, reader_.get()) !=
          cudaSuccess ||
      cudaEventRecord(read_.get(), reader_.get()) != cudaSuccess) {
    (void)cudaGetLastError();
    return kUnknown;
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  cudaError_t state = cudaErrorNotReady;
  while ((state = cudaEventQuery(read_.get())) == cudaErrorNotReady &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  if (state != cudaSuccess) return kUnknown;
  const auto* op = static_cast<const OpName*>(*static_cast<const void* const*>(copy_.get()));
  return op == nullptr ? "no op" : fmt::format("op '{}'", op->op);
}

}  // namespace weft::device::cuda

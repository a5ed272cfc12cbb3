#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "device/cuda/cuda_api.h"

namespace weft::device::cuda {

/// Who a launch is, for messages. Lives as long as the Core, since graphs and kernels keep its address.
struct OpName {
  std::string stream;
  std::string op;
};

/// A word for each stream, into which its kernels write their OpName's address. Thread-safe.
///
/// The words lie on the GPU, where writing one costs a kernel nothing: a kernel that wrote to the host would
/// not be done before that is acknowledged over PCIe. The host reads them when a wait has failed, by a copy
/// in a stream of its own, which runs beside a kernel that never ends.
class ProgressWords {
 public:
  /// On the current device.
  ProgressWords();

  /// Words are never given back, since graphs keep them; streams of one name share one. Device address.
  [[nodiscard]] const void** word(const std::string& stream);
  /// "op '<name>'", of the last kernel that ran in streams of that name, all before it being done; "no op"
  /// before the first. Blocks for a second at most.
  [[nodiscard]] std::string last_op(const std::string& stream) const;

 private:
  static constexpr size_t kMaxWords = 256;

  DeviceMemory memory_;
  HostMemory copy_;  // of one word
  StreamHandle reader_;
  EventHandle read_;
  mutable std::mutex mutex_;
  std::map<std::string, const void**> words_;
};

}  // namespace weft::device::cuda

#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/local/local_world.h"
#include "device/device.h"

namespace weft::comm {

using device::Buffer;
using device::Device;
using std::chrono::milliseconds;

constexpr milliseconds kLong{20000};

/// What one rank of a test has.
struct Rank {
  int rank = 0;
  std::unique_ptr<Device> device;
  std::unique_ptr<device::Stream> stream;

  /// A buffer that holds `values`.
  template <class T>
  [[nodiscard]] Buffer make(const std::vector<T>& values, const std::string& name) const {
    Buffer buffer = device->allocate(values.size() * sizeof(T), name);
    if (!values.empty()) std::memcpy(buffer.data(), values.data(), buffer.num_bytes());
    return buffer;
  }
  /// What a buffer holds once the stream is idle.
  template <class T>
  [[nodiscard]] std::vector<T> values(const Buffer& buffer) const {
    stream->wait_idle(kLong);
    std::vector<T> result(buffer.num_bytes() / sizeof(T));
    if (!result.empty()) std::memcpy(result.data(), buffer.data(), buffer.num_bytes());
    return result;
  }
};

inline std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

inline Rank make_rank(int rank, uint64_t random_order = 0) {
  Rank result;
  result.rank = rank;
  result.device = device::make_cpu_device(
      {.name = fmt::format("cpu:{}", rank), .num_threads = 1, .random_order = random_order});
  result.stream = result.device->make_stream("comm");
  return result;
}

/// Runs body(rank) on a thread for each rank; returns their error messages ("" if none), by rank.
inline std::vector<std::string> run_ranks(int size, const std::function<void(Rank&)>& body,
                                          uint64_t random_order = 0) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        Rank rank = make_rank(r, random_order == 0 ? 0 : random_order + static_cast<uint64_t>(r));
        body(rank);
      } catch (const std::exception& error) {
        errors[r] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

/// The same, and every rank must succeed.
inline void run_ranks_ok(int size, const std::function<void(Rank&)>& body, uint64_t random_order = 0) {
  const auto errors = run_ranks(size, body, random_order);
  for (int r = 0; r < size; ++r) EXPECT_EQ(errors[r], "") << "rank " << r;
}

}  // namespace weft::comm

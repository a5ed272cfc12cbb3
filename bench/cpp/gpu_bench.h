#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "device/device.h"

/// What the programs that time ops on a GPU share.
namespace weft::bench {

constexpr auto kDeadline = std::chrono::minutes(1);

/// Microseconds of a call of `enqueue` among `count`, which a graph of `stream` holds; `enqueue` gets the
/// number of the call. The median of `replays` replays, an odd number, after one more.
inline double median_us(device::Stream& stream, int count, int replays,
                        const std::function<void(int call)>& enqueue) {
  using Clock = std::chrono::steady_clock;
  stream.begin_capture();
  for (int i = 0; i < count; ++i) enqueue(i);
  const auto graph = stream.end_capture();
  std::vector<double> times;
  for (int i = 0; i <= replays; ++i) {
    const auto start = Clock::now();
    stream.replay(*graph);
    stream.wait_idle(kDeadline);
    const std::chrono::duration<double, std::micro> passed = Clock::now() - start;
    if (i > 0) times.push_back(passed.count() / count);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// A buffer of the device with a copy of `from`, which has arrived.
template <class T>
device::Buffer upload(device::Device& device, device::Stream& stream, const std::vector<T>& from) {
  const size_t num_bytes = from.size() * sizeof(T);
  device::Buffer buffer = device.allocate(num_bytes, "bench");
  const auto host = device.allocate_host(num_bytes, "staging");
  std::memcpy(host.data(), from.data(), num_bytes);
  stream.copy(buffer.data(), host.data(), num_bytes);
  stream.wait_idle(kDeadline);
  return buffer;
}

/// The number of a bf16's bits.
inline double as_double(uint16_t bits) { return static_cast<double>(to_f32(bf16{bits})); }

/// run(the program's only argument, or `standard` without one); 1 after an Error, which is printed.
inline int main_of(int argc, char** argv, double standard, int (*run)(double)) {
  try {
    return run(argc > 1 ? std::atof(argv[1]) : standard);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}

}  // namespace weft::bench

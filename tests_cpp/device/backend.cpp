#include "device/backend.h"

namespace weft::device {

Buffer ConformanceTest::zeros(int64_t n, const std::string& name) {
  Buffer buffer = device->allocate(static_cast<size_t>(n) * sizeof(int32_t), name);
  auto stream = device->make_stream("zeros");
  stream->fill(buffer.data(), 0, buffer.num_bytes());
  stream->wait_idle(kLong);
  return buffer;
}

int32_t ConformanceTest::first(Stream& stream, const Buffer& buffer) {
  const Buffer host = device->allocate_host(sizeof(int32_t), "first");
  stream.copy(host.data(), buffer.data(), sizeof(int32_t));
  stream.wait_idle(kLong);
  return *ints(host).as<int32_t>();
}

}  // namespace weft::device

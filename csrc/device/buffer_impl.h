#pragma once

#include <cstddef>
#include <string>

#include "device/device.h"

namespace weft::device {

/// What a backend derives from to own memory; the destructor gives it back.
struct Buffer::Impl {
  Impl(void* memory, size_t bytes, std::string label)
      : data(memory), num_bytes(bytes), name(std::move(label)) {}
  virtual ~Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void* data;
  size_t num_bytes;
  std::string name;
};

}  // namespace weft::device

#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace weft {

/// The one exception of weft: what is wrong, the value, the fix. The library never exits or prints.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace weft

/// Throws weft::Error with a fmt message.
#define WEFT_THROW(...) throw ::weft::Error(::fmt::format(__VA_ARGS__))

/// Throws weft::Error with a fmt message unless `condition` holds. Stays on in release builds.
#define WEFT_CHECK(condition, ...)   \
  do {                               \
    if (!(condition)) [[unlikely]] { \
      WEFT_THROW(__VA_ARGS__);       \
    }                                \
  } while (false)

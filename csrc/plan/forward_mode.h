#pragma once

#include <cstdint>
#include <string_view>

namespace weft::plan {

/// What a batch does in one step. The numbers are SGLang's and never leave the process.
enum class ForwardMode : uint8_t {
  kExtend = 1,
  kDecode = 2,
  kMixed = 3,
  kIdle = 4,
  kTargetVerify = 5,
  kPrebuilt = 7,
};

/// "EXTEND", "DECODE", ...
std::string_view forward_mode_name(ForwardMode mode);

constexpr bool is_extend(ForwardMode mode) {
  return mode == ForwardMode::kExtend || mode == ForwardMode::kMixed || mode == ForwardMode::kTargetVerify;
}

}  // namespace weft::plan

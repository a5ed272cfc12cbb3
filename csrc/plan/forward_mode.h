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

/// EXTEND and MIXED: batches with a length for each sequence, which move a step to EXTEND's schedule and to
/// normal dispatch and keep it from a graph. TARGET_VERIFY is not one of them, although SGLang counts it
/// as is_extend: its width is fixed, SGLang runs it by the decode strategy and in graphs, and its scheduler
/// agrees on such a step as DECODE and multiplies the width in afterwards (semantics 1.8, 2.1, 4.4).
constexpr bool is_prefill(ForwardMode mode) {
  return mode == ForwardMode::kExtend || mode == ForwardMode::kMixed;
}

/// DECODE and TARGET_VERIFY: the same number of new tokens for every sequence.
constexpr bool has_fixed_width(ForwardMode mode) {
  return mode == ForwardMode::kDecode || mode == ForwardMode::kTargetVerify;
}

/// IDLE and PREBUILT: nothing to run.
constexpr bool has_no_rows(ForwardMode mode) {
  return mode == ForwardMode::kIdle || mode == ForwardMode::kPrebuilt;
}

}  // namespace weft::plan

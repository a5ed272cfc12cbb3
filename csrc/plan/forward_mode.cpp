#include "plan/forward_mode.h"

namespace weft::plan {

std::string_view forward_mode_name(ForwardMode mode) {
  switch (mode) {
    case ForwardMode::kExtend:
      return "EXTEND";
    case ForwardMode::kDecode:
      return "DECODE";
    case ForwardMode::kMixed:
      return "MIXED";
    case ForwardMode::kIdle:
      return "IDLE";
    case ForwardMode::kTargetVerify:
      return "TARGET_VERIFY";
    case ForwardMode::kPrebuilt:
      return "PREBUILT";
  }
  return "?";
}

}  // namespace weft::plan

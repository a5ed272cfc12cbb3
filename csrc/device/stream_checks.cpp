#include "device/stream_checks.h"

namespace weft::device {

void check_wait_outside_capture(std::string_view where, bool capturing, bool recorded) {
  WEFT_CHECK(!capturing,
             "{}: a wait inside a capture for an event that was {}; record it in the capture, or wait before "
             "begin_capture",
             where, recorded ? "recorded outside any capture" : "never recorded");
}

void check_wait_in_capture(std::string_view where, bool active, bool capturing, bool own_capture) {
  WEFT_CHECK(active, "{}: a wait for an event that was recorded in a capture that has ended; record it again",
             where);
  WEFT_CHECK(!capturing || own_capture,
             "{}: a wait for an event of another capture; captures cannot be merged", where);
}

void check_not_captured(std::string_view what, bool captured, std::string_view stream) {
  WEFT_CHECK(!captured,
             "{}: the event was recorded inside a capture (of stream '{}'), where nothing runs; record it "
             "again after end_capture",
             what, stream);
}

void check_alive(std::string_view where, const std::vector<std::shared_ptr<const BufferRecord>>& buffers) {
  for (const auto& buffer : buffers) {
    WEFT_CHECK(buffer->alive.load(),
               "{}: the graph uses buffer '{}', which was destroyed; keep it as long as the graph, or "
               "capture again",
               where, buffer->name);
  }
}

void check_joined_back(bool joined_back, std::string_view joined, std::string_view began) {
  WEFT_CHECK(joined_back,
             "end_capture: stream '{}' joined the capture of stream '{}' but was not joined back; record an "
             "event after its last op and let '{}' wait for it",
             joined, began, began);
}

}  // namespace weft::device

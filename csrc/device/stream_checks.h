#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "device/buffer_table.h"

/// What streams, events and graphs of several backends refuse, in the same words: each throws Error.
/// where: the device and the stream.
namespace weft::device {

/// `object` as a `Mine` of the device that `core` belongs to. what: "event" or "graph".
template <class Mine, class Object, class Core>
Mine& own(Object& object, const std::shared_ptr<Core>& core, std::string_view where, std::string_view what) {
  auto* mine = dynamic_cast<Mine*>(&object);
  WEFT_CHECK(mine != nullptr && mine->core() == core.get(), "{}: the {} belongs to another device", where,
             what);
  return *mine;
}

/// For a wait for an event whose last record, if it has one, is no part of a capture: the stream is not
/// capturing.
void check_wait_outside_capture(std::string_view where, bool capturing, bool recorded);
/// For a wait for an event that was recorded in a capture: that is active, and the stream's own if the stream
/// is capturing.
void check_wait_in_capture(std::string_view where, bool active, bool capturing, bool own_capture);

/// For a query or wait of the host: the event was not recorded in a capture (of `stream`).
void check_not_captured(std::string_view what, bool captured, std::string_view stream);

/// All buffers of a graph are alive. where: the device, or it and the stream.
void check_alive(std::string_view where, const std::vector<std::shared_ptr<const BufferRecord>>& buffers);

/// At the end of a capture: the stream that began it waits for the last op of `joined`, one that joined it.
void check_joined_back(bool joined_back, std::string_view joined, std::string_view began);

}  // namespace weft::device

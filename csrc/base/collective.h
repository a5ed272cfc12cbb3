#pragma once

#include <cstdint>
#include <string_view>

namespace weft {

/// What ranks do together. The plan's trace and the communicators' ledger speak in these words.
enum class Collective : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kBarrier,
  kDispatch,  // rows to the ranks of their experts
  kCombine,   // the experts' sums back
};

constexpr std::string_view collective_name(Collective op) {
  switch (op) {
    case Collective::kAllReduce:
      return "all_reduce";
    case Collective::kReduceScatter:
      return "reduce_scatter";
    case Collective::kAllGather:
      return "all_gather";
    case Collective::kAllToAll:
      return "all_to_all";
    case Collective::kBroadcast:
      return "broadcast";
    case Collective::kBarrier:
      return "barrier";
    case Collective::kDispatch:
      return "dispatch";
    case Collective::kCombine:
      return "combine";
  }
  return "?";
}

}  // namespace weft

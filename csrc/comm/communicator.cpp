#include "comm/communicator.h"

namespace weft::comm {

std::string_view collective_name(Collective op) {
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

}  // namespace weft::comm

#pragma once

namespace weft::runtime {

/// Cores that this process may use: its affinity mask, bounded by the quota of its control group (v2),
/// rounded up; at least 1.
[[nodiscard]] int usable_cores();

/// Rank's share of `cores`: as even as it goes, the first ranks get the rest; at least 1.
[[nodiscard]] int cores_of_rank(int cores, int num_ranks, int rank);

}  // namespace weft::runtime

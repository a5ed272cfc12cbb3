#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace weft::runtime {

/// Cores that this process may use: its affinity mask, bounded by the quotas of its control group (v2) and of
/// that group's parents; at least 1.
[[nodiscard]] int usable_cores();

/// The least quota of a control group and its parents, in cores, rounded up; none if no level has one.
/// root: where the hierarchy is mounted; group: the path in it, "/" for the root itself.
[[nodiscard]] std::optional<int64_t> quota_cores(const std::string& root, const std::string& group);

/// Rank's share of `cores`: as even as it goes, the first ranks get the rest; at least 1.
[[nodiscard]] int cores_of_rank(int cores, int num_ranks, int rank);

}  // namespace weft::runtime

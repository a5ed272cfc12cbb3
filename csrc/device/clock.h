#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weft::device {

/// A vector clock: for each stream (or lane of a capture) how many of its commands are known to have come
/// before. Missing entries are 0.
using Clock = std::vector<uint64_t>;

inline uint64_t clock_at(const Clock& clock, size_t index) { return index < clock.size() ? clock[index] : 0; }

inline void advance(Clock& clock, size_t index, uint64_t position) {
  if (clock.size() <= index) clock.resize(index + 1);
  clock[index] = std::max(clock[index], position);
}

inline void join(Clock& clock, const Clock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

}  // namespace weft::device

#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

namespace weft::plan {

/// FNV-1a, 64 bits: tells plans, configurations and traces apart. Not for adversaries.
class Fnv {
 public:
  /// Integers, bools and enums, widened to 64 bits so that equal values hash alike whatever their type.
  template <typename T>
  Fnv& add(T value) {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>);
    auto bits = static_cast<uint64_t>(value);
    for (int byte = 0; byte < 8; ++byte, bits >>= 8) mix(bits & 0xffU);
    return *this;
  }
  template <typename T>
  Fnv& add(const std::vector<T>& values) {
    add(values.size());
    for (const T value : values) add(value);
    return *this;
  }
  Fnv& add(std::string_view text) {
    add(text.size());
    for (const char c : text) mix(static_cast<unsigned char>(c));
    return *this;
  }
  [[nodiscard]] uint64_t value() const { return hash_; }

 private:
  void mix(uint64_t byte) { hash_ = (hash_ ^ byte) * 0x100000001b3U; }
  uint64_t hash_ = 0xcbf29ce484222325U;
};

}  // namespace weft::plan

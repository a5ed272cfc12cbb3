#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>

namespace weft::fuzz {

/// Changes `text` by a few random edits: flipped, replaced, inserted, removed and repeated bytes, and pieces
/// of `dictionary` put in. Seeded by `rng`, so a failure can be repeated; runs where libFuzzer does not.
inline std::string mutate(std::string text, std::span<const std::string_view> dictionary,
                          std::mt19937_64& rng) {
  const auto below = [&rng](size_t n) { return n == 0 ? size_t{0} : static_cast<size_t>(rng() % n); };
  const size_t edits = 1 + below(4);
  for (size_t e = 0; e < edits; ++e) {
    const size_t at = below(text.size() + 1);
    const size_t length = std::min(below(16), text.size() - at);
    switch (below(7)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.insert(at, 1, static_cast<char>(below(256)));
        break;
      case 3:
        text.erase(at, length);
        break;
      case 4:
        text.insert(at, text.substr(below(text.size() + 1), 1 + below(32)));
        break;
      case 5:
        text.replace(at, length, dictionary[below(dictionary.size())]);
        break;
      default:
        if (below(8) == 0) text.resize(at);  // truncation, but not so often that little else is seen
        break;
    }
  }
  return text;
}

/// For two seeds of three: makes the length of a safetensors file reach the last "}}", so that mutations
/// reach the checks of the header.
inline void repair_header_length(void* data, size_t size, uint64_t seed) {
  if (size < 8 || seed % 3 == 0) return;
  auto* bytes = static_cast<char*>(data);
  const size_t end = std::string_view(bytes, size).rfind("}}");
  if (end == std::string_view::npos || end < 8) return;
  for (size_t b = 0; b < 8; ++b) bytes[b] = static_cast<char>(static_cast<uint64_t>(end + 2 - 8) >> (8 * b));
}

}  // namespace weft::fuzz

#pragma once

#include <algorithm>
#include <cstddef>
#include <random>
#include <string>
#include <string_view>

namespace weft::fuzz {

/// Changes `text` by a few random edits: flipped, replaced, inserted, removed and repeated bytes, and pieces
/// of `dictionary` put in. Seeded by `rng`, so a failure can be repeated; runs where libFuzzer does not.
inline std::string mutate(std::string text, std::initializer_list<std::string_view> dictionary,
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
        text.replace(at, length, *(dictionary.begin() + below(dictionary.size())));
        break;
      default:
        if (below(8) == 0) text.resize(at);  // truncation, but not so often that little else is seen
        break;
    }
  }
  return text;
}

}  // namespace weft::fuzz

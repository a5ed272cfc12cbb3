#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/error.h"

namespace weft::json {

Object::Object(std::vector<std::string> names, Array values)
    : names_(std::move(names)), values_(std::move(values)), by_name_(names_.size()) {
  std::iota(by_name_.begin(), by_name_.end(), 0U);
  std::sort(by_name_.begin(), by_name_.end(),
            [this](uint32_t a, uint32_t b) { return names_[a] < names_[b]; });
  const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(),
                                        [this](uint32_t a, uint32_t b) { return names_[a] == names_[b]; });
  if (twice != by_name_.end()) WEFT_THROW("name {} twice in an object", excerpt(names_[*twice]));
}

const Value* Object::find(std::string_view name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [this](uint32_t i, std::string_view n) { return names_[i] < n; });
  return it == by_name_.end() || names_[*it] != name ? nullptr : &values_[*it];
}

std::string_view Value::kind_name() const {
  static constexpr std::string_view kNames[] = {"null",   "bool",  "integer", "number",
                                                "string", "array", "object"};
  return kNames[data_.index()];
}

std::string excerpt(std::string_view text) {
  constexpr size_t kShown = 80;
  const bool cut = text.size() > kShown;
  if (cut) {
    size_t length = kShown;
    while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0U) == 0x80U) --length;
    text = text.substr(0, length);
  }
  std::string out = "\"";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + (cut ? "...\"" : "\"");
}

std::string Value::describe() const {
  if (const bool* b = if_bool()) return *b ? "true" : "false";
  if (const int64_t* i = if_int()) return fmt::format("{}", *i);
  if (const double* d = if_double()) return fmt::format("{}", *d);
  if (const std::string* s = if_string()) return excerpt(*s);
  if (const Array* a = if_array()) return fmt::format("array of {}", a->size());
  if (const Object* o = if_object()) return fmt::format("object of {}", o->size());
  return "null";
}

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(uint32_t code, std::string& out) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0U | (code >> 6));
    put(0x80U | (code & 0x3fU));
  } else if (code < 0x10000) {
    put(0xe0U | (code >> 12));
    put(0x80U | ((code >> 6) & 0x3fU));
    put(0x80U | (code & 0x3fU));
  } else {
    put(0xf0U | (code >> 18));
    put(0x80U | ((code >> 12) & 0x3fU));
    put(0x80U | ((code >> 6) & 0x3fU));
    put(0x80U | (code & 0x3fU));
  }
}

class Parser {
 public:
  Parser(std::string_view text, const ParseOptions& options) : text_(text), options_(options) {}

  Value parse_text() {
    if (text_.size() > options_.max_bytes) {
      WEFT_THROW("{}: {} bytes are more than the limit of {}", options_.source, text_.size(),
                 options_.max_bytes);
    }
    if (text_.substr(0, 3) == "\xef\xbb\xbf") fail("byte order mark; save the file as plain UTF-8");
    skip_space();
    Value value = parse_value(0);
    skip_space();
    if (pos_ != text_.size()) fail("text after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(std::string_view reason) const { fail_at(pos_, reason); }
  [[noreturn]] void fail_at(size_t offset, std::string_view reason) const {
    WEFT_THROW("{}: {} at byte {}", options_.source, reason, offset);
  }

  [[nodiscard]] bool at_end() const { return pos_ == text_.size(); }
  /// The next byte; 0 at the end, which no rule accepts.
  [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[pos_]; }
  bool accept(char c) {
    if (peek() != c || at_end()) return false;
    ++pos_;
    return true;
  }
  void expect(char c, std::string_view reason) {
    if (!accept(c)) fail(at_end() ? "unexpected end" : reason);
  }
  void skip_space() {
    while (!at_end()) {
      const char c = text_[pos_];
      if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return;
      ++pos_;
    }
  }

  /// `depth`: arrays and objects around the value.
  Value parse_value(int depth) {
    if (++num_values_ > options_.max_values) fail("too many values");
    if (at_end()) fail("unexpected end");
    switch (peek()) {
      case '{':
        return Value(parse_object(depth + 1));
      case '[':
        return Value(parse_array(depth + 1));
      case '"':
        return Value(parse_string());
      case 't':
        parse_word("true");
        return Value(true);
      case 'f':
        parse_word("false");
        return Value(false);
      case 'n':
        parse_word("null");
        return {};
      default:
        return parse_number();
    }
  }

  void parse_word(std::string_view word) {
    if (text_.substr(pos_, word.size()) != word) fail("unknown word");
    pos_ += word.size();
  }

  void check_depth(int depth) const {
    if (depth > options_.max_depth) fail("too deeply nested");
  }

  Array parse_array(int depth) {
    check_depth(depth);
    ++pos_;
    Array items;
    skip_space();
    if (accept(']')) return items;
    while (true) {
      skip_space();
      items.push_back(parse_value(depth));
      skip_space();
      if (accept(']')) return items;
      expect(',', "expected ',' or ']'");
    }
  }

  Object parse_object(int depth) {
    check_depth(depth);
    const size_t begin = pos_;
    ++pos_;
    std::vector<std::string> names;
    Array values;
    skip_space();
    if (accept('}')) return {};
    while (true) {
      skip_space();
      if (peek() != '"') fail(at_end() ? "unexpected end" : "expected a name in quotes");
      names.push_back(parse_string());
      skip_space();
      expect(':', "expected ':'");
      skip_space();
      values.push_back(parse_value(depth));
      skip_space();
      if (accept('}')) break;
      expect(',', "expected ',' or '}'");
    }
    try {
      return {std::move(names), std::move(values)};
    } catch (const Error& e) {
      fail_at(begin, e.what());
    }
  }

  Value parse_number() {
    const size_t begin = pos_;
    accept('-');
    if (!is_digit(peek())) {
      pos_ = begin;
      fail("expected a value");
    }
    if (accept('0')) {
      if (is_digit(peek())) fail("number with a leading zero");
    } else {
      skip_digits();
    }
    bool integer = true;
    if (accept('.')) {
      integer = false;
      if (!is_digit(peek())) fail("expected a digit");
      skip_digits();
    }
    if (accept('e') || accept('E')) {
      integer = false;
      if (!accept('+')) accept('-');
      if (!is_digit(peek())) fail("expected a digit");
      skip_digits();
    }
    const char* first = text_.data() + begin;
    const char* last = text_.data() + pos_;
    if (integer) {
      int64_t x = 0;
      if (std::from_chars(first, last, x).ec == std::errc()) return Value(x);
    }
    double x = 0;
    if (std::from_chars(first, last, x).ec != std::errc()) fail_at(begin, "number out of range");
    return Value(x);
  }

  void skip_digits() {
    while (is_digit(peek())) ++pos_;
  }

  std::string parse_string() {
    ++pos_;
    std::string out;
    while (true) {
      if (at_end()) fail("string without an end");
      const auto c = static_cast<unsigned char>(text_[pos_]);
      if (c == '"') {
        ++pos_;
        return out;
      }
      if (c < 0x20) fail("control character in a string");
      if (c == '\\') {
        parse_escape(out);
      } else {
        const size_t length = utf8_length();
        out.append(text_, pos_, length);
        pos_ += length;
      }
    }
  }

  void parse_escape(std::string& out) {
    const size_t begin = pos_;
    ++pos_;
    if (at_end()) fail("string without an end");
    static constexpr std::string_view kLetters = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char c = text_[pos_++];
    if (const size_t i = kLetters.find(c); i != std::string_view::npos) {
      out.push_back(kMeanings[i]);
      return;
    }
    if (c != 'u') fail_at(begin, "unknown escape");
    uint32_t code = parse_hex4();
    if (code >= 0xd800 && code < 0xdc00) {  // the first half of a pair
      if (text_.substr(pos_, 2) != "\\u") fail_at(begin, "lone surrogate");
      pos_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xdc00 || low >= 0xe000) fail_at(begin, "lone surrogate");
      code = 0x10000U + ((code - 0xd800U) << 10) + (low - 0xdc00U);
    } else if (code >= 0xdc00 && code < 0xe000) {
      fail_at(begin, "lone surrogate");
    }
    append_utf8(code, out);
  }

  uint32_t parse_hex4() {
    const std::string_view digits = text_.substr(pos_, 4);
    uint32_t code = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc() || end != digits.data() + 4) fail("expected four hexadecimal digits");
    pos_ += 4;
    return code;
  }

  /// Bytes of the character at pos_; checks it against Unicode's table of well-formed UTF-8.
  [[nodiscard]] size_t utf8_length() const {
    const auto byte = [this](size_t i) -> uint32_t {
      return pos_ + i < text_.size() ? static_cast<unsigned char>(text_[pos_ + i]) : 0U;
    };
    const uint32_t lead = byte(0);
    if (lead < 0x80) return 1;
    const size_t length = lead >= 0xc2 && lead < 0xe0   ? 2
                          : lead >= 0xe0 && lead < 0xf0 ? 3
                          : lead >= 0xf0 && lead < 0xf5 ? 4
                                                        : 0;
    if (length == 0) fail("malformed UTF-8");
    // The second byte's range excludes overlong forms, surrogates and codes past U+10FFFF.
    const uint32_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint32_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (byte(1) < low || byte(1) > high) fail("malformed UTF-8");
    for (size_t i = 2; i < length; ++i) {
      if ((byte(i) & 0xc0U) != 0x80U) fail("malformed UTF-8");
    }
    return length;
  }

  std::string_view text_;
  const ParseOptions& options_;
  size_t pos_ = 0;
  size_t num_values_ = 0;
};

}  // namespace

Value parse(std::string_view text, const ParseOptions& options) { return Parser(text, options).parse_text(); }

}  // namespace weft::json

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// A strict reader of JSON (RFC 8259) for files that come from outside: configurations, indices of
/// checkpoints, headers of safetensors. Any bytes give a value or an Error; depth, size and count are
/// limited.
namespace weft::json {

class Value;
using Array = std::vector<Value>;

/// Members in the order of the text; names are unique.
class Object {
 public:
  Object() = default;
  /// Two lists of one length. Throws Error if a name occurs twice.
  Object(std::vector<std::string> names, Array values);

  [[nodiscard]] size_t size() const { return names_.size(); }
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  /// values()[i] belongs to names()[i].
  [[nodiscard]] const Array& values() const { return values_; }
  /// The member's value, or null if there is none. O(log size).
  [[nodiscard]] const Value* find(std::string_view name) const;

 private:
  std::vector<std::string> names_;
  Array values_;
  std::vector<uint32_t> by_name_;  // indices of names_, sorted by name
};

/// null, bool, integer (fits int64), other number (double), string (UTF-8), array or object.
class Value {
 public:
  Value() = default;
  explicit Value(bool x) : data_(x) {}
  explicit Value(int64_t x) : data_(x) {}
  explicit Value(double x) : data_(x) {}
  explicit Value(std::string x) : data_(std::move(x)) {}
  explicit Value(Array x) : data_(std::move(x)) {}
  explicit Value(Object x) : data_(std::move(x)) {}

  [[nodiscard]] bool is_null() const { return std::holds_alternative<std::monostate>(data_); }
  /// Each is null if the value is of another kind.
  [[nodiscard]] const bool* if_bool() const { return std::get_if<bool>(&data_); }
  [[nodiscard]] const int64_t* if_int() const { return std::get_if<int64_t>(&data_); }
  [[nodiscard]] const double* if_double() const { return std::get_if<double>(&data_); }
  [[nodiscard]] const std::string* if_string() const { return std::get_if<std::string>(&data_); }
  [[nodiscard]] const Array* if_array() const { return std::get_if<Array>(&data_); }
  [[nodiscard]] const Object* if_object() const { return std::get_if<Object>(&data_); }

  /// "null", "bool", "integer", "number", "string", "array" or "object", for messages.
  [[nodiscard]] std::string_view kind_name() const;
  /// A short form for messages: scalars as JSON (long strings cut), "array of 3", "object of 2".
  [[nodiscard]] std::string describe() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> data_;
};

/// `text` in quotes, cut after about 80 bytes at a character's boundary, control characters as \xNN: names
/// from files in messages.
[[nodiscard]] std::string excerpt(std::string_view text);

struct ParseOptions {
  std::string_view source = "json";  // stands in front of messages: the file's name
  size_t max_bytes = size_t{100} << 20;
  size_t max_values = size_t{4} << 20;  // about 100 bytes of memory each
  int max_depth = 64;                   // of nested arrays and objects
};

/// Parses one JSON text. Strict: no comments, no trailing commas, no NaN, no byte order mark, UTF-8 only, no
/// lone surrogates, no duplicate names, nothing but white space after the value. An integer beyond int64
/// becomes a double; a number beyond double is an error. Throws Error: "<source>: <reason> at byte <offset>".
[[nodiscard]] Value parse(std::string_view text, const ParseOptions& options = {});

}  // namespace weft::json

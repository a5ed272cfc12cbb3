#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/json.h"

namespace weft::model {

/// Typed, checked reading of the members of one object of config.json. A member that is null counts as
/// absent. Errors read "<source>: <field> is <value>; <what is expected or what to do>".
class ConfigFields {
 public:
  /// `object` must outlive this. `prefix` stands before names in messages: "" or "rope_scaling.".
  ConfigFields(std::string_view source, std::string_view prefix, const json::Object& object)
      : source_(source), prefix_(prefix), object_(&object) {}

  /// The value, or null if it is absent or null.
  [[nodiscard]] const json::Value* find(std::string_view name) const;
  [[nodiscard]] bool has(std::string_view name) const { return find(name) != nullptr; }
  /// True if the member stands in the file, even as null.
  [[nodiscard]] bool is_written(std::string_view name) const { return object_->find(name) != nullptr; }

  /// An integer in [min, max]; absent: an error, or `otherwise`.
  [[nodiscard]] int64_t integer(std::string_view name, int64_t min, int64_t max) const;
  [[nodiscard]] int64_t integer_or(std::string_view name, int64_t otherwise, int64_t min, int64_t max) const;
  /// A finite number (an integer too) in [min, max].
  [[nodiscard]] double number(std::string_view name, double min, double max) const;
  [[nodiscard]] double number_or(std::string_view name, double otherwise, double min, double max) const;
  [[nodiscard]] bool flag_or(std::string_view name, bool otherwise) const;
  [[nodiscard]] std::string text_or(std::string_view name, std::string_view otherwise) const;
  /// An array, or null if absent.
  [[nodiscard]] const json::Array* array(std::string_view name) const;
  /// An object, or null if absent.
  [[nodiscard]] const json::Object* object(std::string_view name) const;

  /// Throws: the field's value is one that weft lacks or that makes no sense.
  [[noreturn]] void refuse(std::string_view name, std::string_view advice) const;

 private:
  [[nodiscard]] const json::Value& required(std::string_view name) const;

  std::string source_;
  std::string prefix_;
  const json::Object* object_;
};

}  // namespace weft::model

#include "model/config_fields.h"

#include "base/error.h"

namespace weft::model {

const json::Value* ConfigFields::find(std::string_view name) const {
  const json::Value* value = object_->find(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const json::Value& ConfigFields::required(std::string_view name) const {
  const json::Value* value = find(name);
  WEFT_CHECK(value != nullptr, "{}: {}{} is missing", source_, prefix_, name);
  return *value;
}

void ConfigFields::refuse(std::string_view name, std::string_view advice) const {
  const json::Value* value = object_->find(name);
  WEFT_THROW("{}: {}{} is {}; {}", source_, prefix_, name, value == nullptr ? "missing" : value->describe(),
             advice);
}

int64_t ConfigFields::integer(std::string_view name, int64_t min, int64_t max) const {
  const int64_t* x = required(name).if_int();
  if (x == nullptr || *x < min || *x > max)
    refuse(name, fmt::format("expected an integer from {} to {}", min, max));
  return *x;
}

int64_t ConfigFields::integer_or(std::string_view name, int64_t otherwise, int64_t min, int64_t max) const {
  return has(name) ? integer(name, min, max) : otherwise;
}

double ConfigFields::number(std::string_view name, double min, double max) const {
  const json::Value& value = required(name);
  const int64_t* i = value.if_int();
  const double* d = value.if_double();
  const double x = i != nullptr ? static_cast<double>(*i) : d != nullptr ? *d : 0.0;
  if ((i == nullptr && d == nullptr) || !(x >= min && x <= max)) {
    refuse(name, fmt::format("expected a number from {} to {}", min, max));
  }
  return x;
}

double ConfigFields::number_or(std::string_view name, double otherwise, double min, double max) const {
  return has(name) ? number(name, min, max) : otherwise;
}

bool ConfigFields::flag_or(std::string_view name, bool otherwise) const {
  const json::Value* value = find(name);
  if (value == nullptr) return otherwise;
  if (value->if_bool() == nullptr) refuse(name, "expected true or false");
  return *value->if_bool();
}

std::string ConfigFields::text_or(std::string_view name, std::string_view otherwise) const {
  const json::Value* value = find(name);
  if (value == nullptr) return std::string(otherwise);
  if (value->if_string() == nullptr) refuse(name, "expected a string");
  return *value->if_string();
}

const json::Array* ConfigFields::array(std::string_view name) const {
  const json::Value* value = find(name);
  if (value == nullptr) return nullptr;
  if (value->if_array() == nullptr) refuse(name, "expected an array");
  return value->if_array();
}

const json::Object* ConfigFields::object(std::string_view name) const {
  const json::Value* value = find(name);
  if (value == nullptr) return nullptr;
  if (value->if_object() == nullptr) refuse(name, "expected an object");
  return value->if_object();
}

}  // namespace weft::model

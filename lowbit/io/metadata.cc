// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/metadata.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace lowbit {
namespace {

constexpr std::array<std::string_view, 13> type_names{
    "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
    "bool",  "string", "array",  "uint64", "int64",  "float64"};

std::string kind_of(const Value& value) {
  if (value.type != ValueType::array) return std::string(name_of(value.type));
  return fmt::format("array of {}", name_of(value.element));
}

Error missing(std::string_view key) {
  return Error(fmt::format("the metadata has no key '{}'", key));
}
Error wrong_kind(std::string_view key, const Value& value, std::string_view wanted) {
  return Error(
      fmt::format("metadata key '{}' is of type {}, expected {}", key, kind_of(value), wanted));
}

template <class T>
Result<const T*> array_of(const Metadata& metadata, std::string_view key, std::string_view wanted) {
  const Value* value = metadata.find(key);
  if (value == nullptr) return missing(key);
  const T* values = std::get_if<T>(&value->data);
  if (values == nullptr) return wrong_kind(key, *value, wanted);
  return values;
}

}  // namespace

std::string_view name_of(ValueType type) {
  return type_names[static_cast<std::size_t>(type)];
}

Value Value::integer(std::int64_t value, ValueType type) {
  return {type, type, value};
}
Value Value::number(double value, ValueType type) {
  return {type, type, value};
}
Value Value::boolean(bool value) {
  return {ValueType::boolean, ValueType::boolean, std::int64_t{value}};
}
Value Value::string(std::string value) {
  return {ValueType::string, ValueType::string, std::move(value)};
}
Value Value::integers(std::vector<std::int64_t> values, ValueType element) {
  return {ValueType::array, element, std::move(values)};
}
Value Value::numbers(std::vector<double> values, ValueType element) {
  return {ValueType::array, element, std::move(values)};
}
Value Value::strings(std::vector<std::string> values) {
  return {ValueType::array, ValueType::string, std::move(values)};
}

const Value* Metadata::find(std::string_view key) const {
  const auto found = index_.find(std::string(key));
  return found == index_.end() ? nullptr : &entries_[found->second].value;
}

Result<std::string_view> Metadata::string(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return missing(key);
  const auto* text = std::get_if<std::string>(&value->data);
  if (text == nullptr) return wrong_kind(key, *value, "string");
  return std::string_view(*text);
}

Result<std::int64_t> Metadata::integer(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return missing(key);
  const auto* number = std::get_if<std::int64_t>(&value->data);
  if (number == nullptr || value->type == ValueType::boolean) {
    return wrong_kind(key, *value, "an integer");
  }
  if (value->type == ValueType::uint64 && *number < 0) {
    return Error(fmt::format("metadata key '{}' is {}, too large for any use of it", key,
                             static_cast<std::uint64_t>(*number)));
  }
  return *number;
}

Result<double> Metadata::number(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto* number = std::get_if<double>(&value->data)) return *number;
  auto whole = integer(key);
  if (!whole) return wrong_kind(key, *value, "a number");
  return static_cast<double>(*whole);
}

Result<bool> Metadata::boolean(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return missing(key);
  if (value->type != ValueType::boolean) return wrong_kind(key, *value, "bool");
  return std::get<std::int64_t>(value->data) != 0;
}

Result<const std::vector<std::string>*> Metadata::strings(std::string_view key) const {
  return array_of<std::vector<std::string>>(*this, key, "array of string");
}
Result<const std::vector<std::int64_t>*> Metadata::integers(std::string_view key) const {
  return array_of<std::vector<std::int64_t>>(*this, key, "array of integers");
}
Result<const std::vector<double>*> Metadata::numbers(std::string_view key) const {
  return array_of<std::vector<double>>(*this, key, "array of floats");
}

void Metadata::set(std::string_view key, Value value) {
  const auto [place, is_new] = index_.try_emplace(std::string(key), entries_.size());
  if (is_new) {
    entries_.push_back({std::string(key), std::move(value)});
  } else {
    entries_[place->second].value = std::move(value);
  }
}

void Metadata::erase(std::string_view key) {
  const auto found = index_.find(std::string(key));
  if (found == index_.end()) return;
  const std::size_t place = found->second;
  entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(place));
  index_.erase(found);
  for (auto& [name, at] : index_) {
    if (at > place) --at;
  }
}

}  // namespace lowbit

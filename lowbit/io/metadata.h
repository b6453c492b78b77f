// SPDX-License-Identifier: Apache-2.0
// The typed key-values of a model file, in the order in which the file has them. The types are
// GGUF's thirteen, kept so that a file can be written back as it was read; readers ask for what
// they need (an integer, a number, a string) and get an error that names the key when it is missing
// or of another kind.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

/// In the order of GGUF's type numbers.
enum class ValueType : std::uint8_t {
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  float32,
  boolean,
  string,
  array,
  uint64,
  int64,
  float64,
};
std::string_view name_of(ValueType type);

/// One value, or a flat array of them. Integers and booleans are held as int64 (uint64 by its
/// bits), both float types as double: nothing is lost, and `type` says what was stored.
struct Value {
  ValueType type = ValueType::uint32;
  ValueType element = ValueType::uint32;  // of an array
  std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
               std::vector<std::string>>
      data = std::int64_t{0};

  static Value integer(std::int64_t value, ValueType type = ValueType::uint32);
  static Value number(double value, ValueType type = ValueType::float32);
  static Value boolean(bool value);
  static Value string(std::string value);
  static Value integers(std::vector<std::int64_t> values, ValueType element = ValueType::int32);
  static Value numbers(std::vector<double> values, ValueType element = ValueType::float32);
  static Value strings(std::vector<std::string> values);

  bool operator==(const Value&) const = default;
};

class Metadata {
 public:
  struct Entry {
    std::string key;
    Value value;
  };

  /// Null when there is no such key.
  const Value* find(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  /// Errors: no such key, or its value is of another kind.
  Result<std::string_view> string(std::string_view key) const;
  Result<std::int64_t> integer(std::string_view key) const;  // any integer type that fits
  Result<double> number(std::string_view key) const;         // any float or integer type
  Result<bool> boolean(std::string_view key) const;
  Result<const std::vector<std::string>*> strings(std::string_view key) const;
  Result<const std::vector<std::int64_t>*> integers(std::string_view key) const;  // booleans too
  Result<const std::vector<double>*> numbers(std::string_view key) const;

  /// Adds the key at the end, or replaces its value where it stands.
  void set(std::string_view key, Value value);
  void erase(std::string_view key);

  std::span<const Entry> entries() const { return entries_; }
  std::size_t n_entries() const { return entries_.size(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> index_;  // key -> place in entries_
};

}  // namespace lowbit

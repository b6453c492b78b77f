// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/json_body.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>

namespace lowbit {
namespace {

/// Receives the parser's events. Returning false ends the parse.
class Builder {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  Json root;
  std::string problem;

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string& text) {
    if (!std::isfinite(value)) return fail(fmt::format("the number {} is too large", text));
    return add(value);
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return fail("binary values are no JSON"); }

  bool start_object(std::size_t) { return open(Json::object()); }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) {
      constexpr std::size_t most_shown = 60;
      return fail(
          fmt::format("the key '{}' occurs twice in one object", name.substr(0, most_shown)));
    }
    key_ = std::move(name);
    return true;
  }
  bool end_object() {
    keys_.pop_back();
    open_.pop_back();
    return true;
  }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_array() {
    keys_.pop_back();
    open_.pop_back();
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    const std::string_view text = e.what();
    const std::size_t at = text.find(": ");
    constexpr std::size_t most_shown = 160;
    problem = fmt::format("broken JSON at byte {}: {}", position,
                          at == text.npos ? text : text.substr(at + 2, most_shown));
    return false;
  }

 private:
  bool fail(std::string text) {
    problem = std::move(text);
    return false;
  }

  Json* place(Json value) {
    if (++n_values_ > limits_.n_values) {
      fail(fmt::format("more than {} values in one JSON text", limits_.n_values));
      return nullptr;
    }
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      auto& items = parent.get_ref<Json::array_t&>();
      return &items.emplace_back(std::move(value));
    }
    // Past ordered_map's own emplace, which searches: keys_ has made sure that the key is new.
    using Entries = Json::object_t::Container;
    Entries& entries = parent.get_ref<Json::object_t&>();
    entries.emplace_back(std::move(key_), std::move(value));
    return &entries.back().second;
  }
  bool add(Json value) { return place(std::move(value)) != nullptr; }
  bool open(Json value) {
    if (open_.size() >= limits_.depth) {
      return fail(fmt::format("JSON nested more than {} levels deep", limits_.depth));
    }
    Json* placed = place(std::move(value));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    keys_.emplace_back();
    return true;
  }

  const JsonLimits limits_;
  std::size_t n_values_ = 0;
  std::vector<Json*> open_;  // a parent grows only while none of its children is open
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, const JsonLimits& limits) {
  Builder builder(limits);
  if (!Json::sax_parse(text, &builder)) {
    return Error(builder.problem.empty() ? "broken JSON" : builder.problem);
  }
  return std::move(builder.root);
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace lowbit

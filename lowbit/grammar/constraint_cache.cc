// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/constraint_cache.h"

#include <nlohmann/json.hpp>

#include "lowbit/grammar/json_schema.h"
#include "lowbit/grammar/schema_document.h"

namespace lowbit {
namespace {

std::string dumped(const Json& value) {
  return value.dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace);
}

}  // namespace

Result<std::unique_ptr<TokenConstraint>> ConstraintCache::json_object() {
  return json_schema(Json::object({{"type", "object"}}));
}

Result<std::unique_ptr<TokenConstraint>> ConstraintCache::json_schema(const Json& schema) {
  // Writing the key recurses: a hostile depth is refused first.
  if (auto status = SchemaDocument(schema).check_size(); !status) return std::move(status).error();
  std::string key = "schema " + dumped(schema);
  if (auto masks = find(key)) return constrain(std::move(masks));
  auto grammar = compile_json_schema(schema);
  if (!grammar) return std::move(grammar).error();
  return keep(std::move(key), *std::move(grammar));
}

Result<std::unique_ptr<TokenConstraint>> ConstraintCache::tool_calls(
    std::span<const ToolDefinition> tools, bool may_answer, bool is_parallel) {
  std::string key = std::string("tools ") + (may_answer ? "a" : "r") + (is_parallel ? "p" : "s");
  for (const ToolDefinition& tool : tools) {
    key += ' ' + dumped(tool.name);
    if (tool.parameters == nullptr) continue;
    if (auto status = SchemaDocument(*tool.parameters).check_size(); !status) {
      return std::move(status).error().in("the parameters of the tool \"" + tool.name + "\"");
    }
    key += ' ' + dumped(*tool.parameters);
  }
  if (auto masks = find(key)) return constrain(std::move(masks));
  auto grammar = compile_tool_calls(tools, may_answer, is_parallel);
  if (!grammar) return std::move(grammar).error();
  return keep(std::move(key), *std::move(grammar));
}

std::size_t ConstraintCache::n_schemas() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

std::shared_ptr<TokenMasks> ConstraintCache::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto known = by_key_.find(key);
  if (known == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, known->second);
  return entries_.front().masks;
}

// Two requests may have compiled the same schema at the same time: the first one's is kept.
std::unique_ptr<TokenConstraint> ConstraintCache::keep(std::string key,
                                                       std::shared_ptr<const Grammar> grammar) {
  if (auto masks = find(key)) return constrain(std::move(masks));
  auto masks = std::make_shared<TokenMasks>(std::move(grammar), vocabulary_);
  const std::lock_guard lock(mutex_);
  if (!by_key_.contains(key)) {
    entries_.push_front({key, masks});
    by_key_.emplace(std::move(key), entries_.begin());
  }
  while (entries_.size() > max_schemas_) {
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  return constrain(std::move(masks));
}

}  // namespace lowbit

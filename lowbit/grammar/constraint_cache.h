// SPDX-License-Identifier: Apache-2.0
// Constraints for the requests of a server: a schema is compiled once, and its masks are shared by
// all requests that ask for the same one. The least recently used schema is forgotten first; what
// still follows it goes on undisturbed.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "lowbit/base/result.h"
#include "lowbit/grammar/token_masks.h"
#include "lowbit/grammar/tool_calls.h"

namespace lowbit {

/// May be used by several threads. An Error says what a client has to change in its schema.
class ConstraintCache {
 public:
  explicit ConstraintCache(std::shared_ptr<const TokenVocabulary> vocabulary,
                           std::size_t max_schemas = 32)
      : vocabulary_(std::move(vocabulary)), max_schemas_(max_schemas) {}

  Result<std::unique_ptr<TokenConstraint>> json_object();
  Result<std::unique_ptr<TokenConstraint>> json_schema(const nlohmann::ordered_json& schema);
  /// As compile_tool_calls.
  Result<std::unique_ptr<TokenConstraint>> tool_calls(std::span<const ToolDefinition> tools,
                                                      bool may_answer, bool is_parallel);
  std::size_t n_schemas() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<TokenMasks> masks;
  };
  std::shared_ptr<TokenMasks> find(const std::string& key);
  std::unique_ptr<TokenConstraint> keep(std::string key, std::shared_ptr<const Grammar> grammar);

  mutable std::mutex mutex_;
  std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::size_t max_schemas_;
  std::list<Entry> entries_;  // most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace lowbit

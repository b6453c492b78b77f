// SPDX-License-Identifier: Apache-2.0
// A JSON schema as read: which keywords there are and whether their values make sense, where $ref
// leads, and what a set of schemas asks for at once. A keyword that is not in the list is an Error
// that names it and its place: output that breaks a rule nobody mentioned would be worse.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

using Json = nlohmann::ordered_json;

/// Schemas that hold at the same time, and hence for the same value.
using Conjunction = std::vector<const Json*>;

class SchemaDocument {
 public:
  /// The root must outlive it.
  explicit SchemaDocument(const Json& root) : root_(&root) { places_[&root] = "#"; }

  /// Refuses documents that are too deep or too large to work on.
  Status check_size() const;

  /// $ref, allOf, anyOf and oneOf (read as anyOf) resolved: the value satisfies the conjunction if
  /// it satisfies one of the results, each of which is to be read without these keywords. No
  /// results: nothing satisfies it. All keywords of the schemas in them are checked.
  Result<std::vector<Conjunction>> alternatives(const Conjunction& conjunction);

  /// The schema a $ref leads to.
  Result<const Json*> resolve(const std::string& reference);
  /// Where a schema stands, as a JSON pointer: "#/properties/name".
  std::string place(const Json& schema) const;

 private:
  struct Pending {
    const Json* schema;  // or a list of which one is to be chosen
    bool is_choice;
    std::vector<const Json*> by;  // the schemas that led here
  };
  Status check(const Json& schema);
  Status expand(std::vector<Pending> pending, Conjunction done, std::vector<Conjunction>& results);

  const Json* root_;
  std::map<const Json*, std::string> places_;
  std::set<const Json*> checked_;
  std::size_t n_steps_ = 0;  // of all that was resolved
};

/// "string", "integer", ... of the values of a type keyword.
std::vector<std::string_view> type_names(const Json& type);

}  // namespace lowbit

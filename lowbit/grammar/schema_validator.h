// SPDX-License-Identifier: Apache-2.0
// Whether a value satisfies a schema, decided the ordinary way: on the parsed value, without any
// automaton of the document. It filters enum lists by the keywords beside them, and tests hold what
// the grammar lets through against it.
#pragma once

#include <map>
#include <string>

#include "lowbit/grammar/automaton.h"
#include "lowbit/grammar/schema_document.h"

namespace lowbit {

class SchemaValidator {
 public:
  /// The root of the schema, for $ref; must outlive it. Schemas are expected to compile: what is
  /// not supported counts as not satisfied.
  explicit SchemaValidator(const Json& root) : document_(root), root_(&root) {}

  bool validates(const Json& value) { return validates(*root_, value, 0); }
  bool validates(const Json& schema, const Json& value) { return validates(schema, value, 0); }

 private:
  bool validates(const Json& schema, const Json& value, int depth);
  bool validates_string(const Json& schema, const std::string& text);
  bool validates_array(const Json& schema, const Json& value, int depth);
  bool validates_object(const Json& schema, const Json& value, int depth);
  bool matches(const std::string& pattern, const std::string& text);

  SchemaDocument document_;
  const Json* root_;
  std::map<std::string, Dfa> patterns_;
};

}  // namespace lowbit

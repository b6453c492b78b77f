// SPDX-License-Identifier: Apache-2.0
// JSON schema to grammar. Every document the grammar generates satisfies the schema (oneOf is read
// as anyOf); not every document that satisfies it can be generated:
//   - properties come in the order of the schema, and others after them; where `properties` is
//     given without additionalProperties, there are no others;
//   - white space is bounded (json_text.h), documents nest at most max_grammar_depth rules deep;
//   - integers have at most 18 digits and are written without point and exponent, numbers at most
//     18 before and 15 behind the point; beside a bound there is no exponent;
//   - keys beside declared ones, and strings with a pattern or format, have no \u escapes;
//   - without a type, keywords imply the types they speak of.
// Unsupported keywords are refused by name and place; docs/structured-output.md lists all of them.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "lowbit/base/result.h"
#include "lowbit/grammar/grammar.h"

namespace lowbit {

Result<std::shared_ptr<const Grammar>> compile_json_schema(const nlohmann::ordered_json& schema);

/// Any JSON object: response_format json_object.
std::shared_ptr<const Grammar> any_json_object();

/// The documents of a schema as part of a larger grammar, only objects among them if asked for.
Result<GrammarBuilder::Node> add_json_schema(GrammarBuilder& builder,
                                             const nlohmann::ordered_json& schema,
                                             bool must_be_object = false);

}  // namespace lowbit

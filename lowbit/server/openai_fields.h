// SPDX-License-Identifier: Apache-2.0
// THE list of request fields: which endpoint takes which, of what type and range, and what each
// means. Requests are checked against it, the OpenAPI document is printed from it, and what is not
// in it is ignored, as OpenAI's other servers do. Some fields are known and not supported: they are
// refused by name unless they ask for nothing, because ignoring them would change the answer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/server/api_error.h"

namespace lowbit {

enum class Endpoint : std::uint8_t {
  chat,
  completions,
  responses,
  embeddings,
  tokenize,
  detokenize,
  apply_template
};

enum class FieldKind : std::uint8_t {
  boolean,
  integer,
  number,
  text,
  text_or_list,  // a string or a list of strings
  list,
  object,
  text_or_object,
  any,
  unsupported  // only what asks for nothing: null, false, 0, "", [], {}
};

struct Field {
  std::string_view name;
  FieldKind kind;
  std::uint32_t endpoints;     // bits 1 << Endpoint
  double least = 0, most = 0;  // of integers and numbers
  std::string_view about = {};
  bool is_required = false;
};

std::span<const Field> field_list();
/// Null if that endpoint has no such field.
const Field* find_field(std::string_view name, Endpoint endpoint);

/// Types, ranges and required fields. Null stands for "not given" everywhere. Names that the list
/// does not have are appended to `ignored`.
Refusal check_fields(const Json& request, Endpoint endpoint, std::vector<std::string>& ignored);

/// The value of a field, or null where there is none.
const Json& field_of(const Json& object, std::string_view name);

}  // namespace lowbit

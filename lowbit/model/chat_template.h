// SPDX-License-Identifier: Apache-2.0
// The chat template of a model: a Jinja program that turns messages and tools into the text the
// model was trained on. Semantics are those of jinja2 in an immutable sandbox with trim_blocks and
// lstrip_blocks, as transformers sets it up: Python's truth, printing and comparison rules; lists
// and dicts cannot be changed in place. Hostile templates end with an error: steps, memory, output
// and nesting are limited.
//
// Left out, because no chat template needs it: include, import, extends, block, autoescape and the
// filters groupby, pprint, random, urlize, wordwrap, xmlattr, filesizeformat, striptags, urlencode.
// Integers have 64 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lowbit/base/result.h"
#include "lowbit/model/marked_text.h"

namespace lowbit {

namespace jinja {
struct Program;
}

class ChatTemplate {
 public:
  /// Errors are one sentence with line and column.
  static Result<ChatTemplate> parse(std::string_view source);

  /// `variables` is a JSON object: messages, tools, add_generation_prompt, bos_token, eos_token and
  /// whatever else the template reads. As in transformers, tools and documents are none and
  /// add_generation_prompt is false unless given. Strings are untrusted, except the variables named
  /// *_token (they come from the tokenizer) and the usual role words (templates build special
  /// tokens from them). If variables["strftime_now"] is a number, it is the time strftime_now()
  /// prints, in seconds since 1970 in the time zone wanted; otherwise that is the system clock in
  /// UTC.
  Result<MarkedText> render(const nlohmann::ordered_json& variables) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::Program> program)
      : program_(std::move(program)) {}
  std::shared_ptr<const jinja::Program> program_;
};

}  // namespace lowbit

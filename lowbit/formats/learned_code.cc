// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/learned_code.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>

#include "lowbit/base/assert.h"
#include "lowbit/formats/scheme.h"

namespace lowbit {

LearnedCode::LearnedCode(const Code& family, std::span<const float> values)
    : values_(values.begin(), values.end()), code_(family) {
  LOWBIT_ASSERT(family.is_learned && values.size() == family.values.size());
  code_.values = values_;
  code_.owner = this;
}

CodePtr LearnedCode::make(const Code& family, std::span<const float> values) {
  return CodePtr(&(new LearnedCode(family, values))->code_);
}

void CodePtr::own(const LearnedCode& code) {
  code.n_owners_.fetch_add(1, std::memory_order_relaxed);
}

void CodePtr::disown(const LearnedCode& code) {
  if (code.n_owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete &code;
}

std::string text_with_table(const Scheme& scheme) {
  std::string text = to_string(scheme);
  if (scheme.code->owner == nullptr) return text;
  text += '#';
  for (const float value : scheme.code->values) {
    fmt::format_to(std::back_inserter(text), "{:02x}",
                   static_cast<unsigned>(static_cast<std::uint8_t>(static_cast<int>(value))));
  }
  return text;
}

Result<Scheme> parse_scheme_with_table(std::string_view text) {
  const std::size_t hash = std::min(text.find('#'), text.size());
  auto scheme = parse_scheme(text.substr(0, hash));
  if (!scheme || hash == text.size()) return scheme;
  const std::string_view digits = text.substr(hash + 1);
  std::vector<float> values;
  for (std::size_t at = 0; at + 2 <= digits.size(); at += 2) {
    unsigned byte = 0;
    const char* end = digits.data() + at + 2;
    const auto [rest, error] = std::from_chars(digits.data() + at, end, byte, /*base=*/16);
    if (error != std::errc{} || rest != end) break;
    const auto value = static_cast<std::int8_t>(static_cast<std::uint8_t>(byte));
    if (value == std::numeric_limits<std::int8_t>::min()) break;
    values.push_back(static_cast<float>(value));
  }
  if (!scheme->code->is_learned || values.size() != scheme->code->values.size() ||
      digits.size() != 2 * values.size()) {
    return Error(fmt::format("the table of scheme {} is damaged", to_string(*scheme)));
  }
  scheme->code = LearnedCode::make(*scheme->code, values);
  return scheme;
}

bool same_but_for_tables(const Scheme& a, const Scheme& b) {
  if (a == b) return true;
  if (!a.code->is_learned || !b.code->is_learned || a.code->name != b.code->name) return false;
  Scheme other = a;
  other.code = b.code;
  return other == b;
}

}  // namespace lowbit

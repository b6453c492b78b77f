// SPDX-License-Identifier: Apache-2.0
// A code whose table was learned for one tensor. It belongs to a family of the list (lut4, vq6x2),
// which says how many bits stand for how many numbers; the values are the tensor's own: integers
// of int8, so that the integer kernels run it. Schemes that point to it (CodePtr) own it together.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/formats/code.h"

namespace lowbit {

struct Scheme;

class LearnedCode {
 public:
  /// family: a row of the list with is_learned. values: (2^window, dim) row-major, as many as the
  /// family has, each an integer from -127 to 127.
  static CodePtr make(const Code& family, std::span<const float> values);

  LearnedCode(const LearnedCode&) = delete;
  LearnedCode& operator=(const LearnedCode&) = delete;

 private:
  friend class CodePtr;
  LearnedCode(const Code& family, std::span<const float> values);

  std::vector<float> values_;
  Code code_;
  mutable std::atomic<std::int64_t> n_owners_{0};
};

/// Whether two schemes are equal, or would be with the same learned tables: what is asked for
/// before anything was learned, and what came of it.
bool same_but_for_tables(const Scheme& a, const Scheme& b);

/// to_string, and after a '#' the table of a learned code in hexadecimal; and back. Error: what
/// parse_scheme refuses, a table that is none.
std::string text_with_table(const Scheme& scheme);
Result<Scheme> parse_scheme_with_table(std::string_view text);

}  // namespace lowbit

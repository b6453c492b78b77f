// SPDX-License-Identifier: Apache-2.0
// A code says how bits become numbers: read `window` bits, look them up, move on `step` bits,
// having produced `dim` numbers. INT8..INT1, the small floats, NF4, ternary and the grids of the iq
// types are all values of this one type, so decoding, nearest-value search, exhaustive tests and
// the generated documentation are written once. The list of codes is in codes.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

namespace lowbit {

class LearnedCode;

struct Code {
  std::string_view name;
  int window = 0;  // bits read for one look-up
  int step = 0;    // bits from one code to the next
  int dim = 1;     // numbers one look-up produces
  int signs = 0;   // the top bits of the window that negate (0 or dim), so that grids stay small
  std::span<const float> values = {};                         // (2^(window - signs), dim) row-major
  void (*formula)(std::uint32_t bits, float* out) = nullptr;  // instead of values: raw floats
  // Instead of the search by value: codes that a formula decodes, codes with a rule of their own
  // for ties or with bits that are read but never written (ternary).
  std::uint32_t (*encoder)(float value) = nullptr;
  // Not 0: of so many consecutive numbers an even count is negated in what is written, because the
  // container (GGUF's iq2_xxs, iq2_xs, iq3_xxs) leaves out the last sign. Reading knows no such
  // rule.
  int even_signs = 0;
  // A family of codes: every tensor has a table of its own, learned for it, and `values` are where
  // learning starts. (A learned code says so too; then `owner` holds the table.)
  bool is_learned = false;
  const LearnedCode* owner = nullptr;

  /// Numbers of one code. out: (dim)
  constexpr void look_up(std::uint32_t bits, float* out) const {
    if (formula != nullptr) return formula(bits, out);
    const std::uint32_t row = bits & ((1u << (window - signs)) - 1);
    const std::uint32_t flips = signs == 0 ? 0 : bits >> (window - signs);
    for (int i = 0; i < dim; ++i) {
      const float value = values[row * static_cast<unsigned>(dim) + static_cast<unsigned>(i)];
      out[i] = (flips >> i & 1u) != 0 ? -value : value;
    }
  }
};

/// Points to a code: a row of the list, or a learned one, which lives as long as something points
/// to it.
class CodePtr {
 public:
  constexpr CodePtr() = default;
  constexpr CodePtr(const Code* code) : code_(code) { take(); }
  constexpr CodePtr(const CodePtr& other) : code_(other.code_) { take(); }
  constexpr CodePtr& operator=(const CodePtr& other) {
    other.take();
    drop();
    code_ = other.code_;
    return *this;
  }
  constexpr ~CodePtr() { drop(); }

  constexpr const Code* get() const { return code_; }
  constexpr operator const Code*() const { return code_; }
  constexpr const Code* operator->() const { return code_; }
  constexpr const Code& operator*() const { return *code_; }

 private:
  /// Not asked in constants, which are rows of the list: with -fsanitize=undefined g++ does not
  /// take a comparison of their addresses with null for a constant.
  constexpr bool is_owned() const {
    return !std::is_constant_evaluated() && code_ != nullptr && code_->owner != nullptr;
  }
  constexpr void take() const {
    if (is_owned()) own(*code_->owner);
  }
  constexpr void drop() const {
    if (is_owned()) disown(*code_->owner);
  }
  static void own(const LearnedCode& code);
  static void disown(const LearnedCode& code);

  const Code* code_ = nullptr;
};

/// Two codes are equal when their bits mean the same (values compared by their bits, so NaN equals
/// NaN); the name does not matter.
bool operator==(const Code& a, const Code& b);

/// The largest unit with every value == unit * k, k in [-128, 127]; 0 when there is none (NaN,
/// infinity, too wide a range). Codes with a unit multiply exactly in int8.
float int8_unit(const Code& code);

/// The code whose value is nearest to `value`: ties go to the even code (which is the even mantissa
/// of small floats), beyond the range it saturates at the largest finite value, infinity becomes
/// the code's infinity and NaN its NaN where it has them; elsewhere NaN counts as 0. -0 is nearer
/// to negative numbers. Only for dim == 1. This is the reference, a scan of the table; quantizers
/// use CodeSearch (code_search.h), which gives the same codes.
std::uint32_t nearest_code(const Code& code, float value);

/// The code whose vector is nearest (least sum of squares; the lowest code on ties). values: (dim)
std::uint32_t nearest_vector(const Code& code, const float* values);

}  // namespace lowbit

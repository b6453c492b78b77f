// SPDX-License-Identifier: Apache-2.0
// THE list of named schemes, and the grammar that spells every other one. A Scheme never owns: it
// points to rows of the list of codes and to the static rows below, also when it was parsed.
#include "lowbit/formats/scheme.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "lowbit/base/edit_distance.h"
#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

using codes::named;

/// Every code as a matrix of its own, without scales: what scales and zeros are made of.
constexpr auto plain_rows = [] {
  std::array<Scheme, codes::list.size()> rows{};
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].code = &codes::list[i];
  return rows;
}();

constexpr const Scheme* plain(const Code* code) {
  return &plain_rows[static_cast<std::size_t>(code - codes::list.data())];
}
consteval const Scheme* plain(std::string_view name) {
  return plain(&named(name));
}

constexpr Group whole_row{1, 0}, whole_tensor{0, 0};
constexpr Group per(int cols) {
  return {1, cols};
}

constexpr const Scheme* f16 = plain("f16");
constexpr const Scheme* e8m0 = plain("e8m0");

/// Scales that are themselves scaled: sub-scales under one f16 per 256 numbers, nvfp4's under one
/// f32.
constexpr Scheme uint4_per_16{"", &named("uint4"), per(16), f16};
constexpr Scheme uint6_per_8{"", &named("uint6"), per(8), f16};
constexpr Scheme int6_per_16{"", &named("int6"), per(16), f16};
constexpr Scheme int6_per_8{"", &named("int6"), per(8), f16};
constexpr Scheme int8_per_16{"", &named("int8"), per(16), f16};
constexpr Scheme half_odd4_per_8{"", &named("half_odd4"), per(8), f16};
constexpr Scheme half_odd4_per_16{"", &named("half_odd4"), per(16), f16};
constexpr Scheme half_odd4_2_per_8{"", &named("half_odd4_2"), per(8), f16};
constexpr Scheme odd3_per_8{"", &named("odd3"), per(8), f16};
constexpr Scheme odd3_per_16{"", &named("odd3"), per(16), f16};
constexpr Scheme odd4_per_8{"", &named("odd4"), per(8), f16};
constexpr Scheme ue4m3_per_tensor{"", &named("ue4m3"), whole_tensor, plain("f32")};

/// A scheme whose zeros are numbers in weight units, in the scheme of the scales.
constexpr Scheme with_offset(std::string_view name, const Code& code, Group group,
                             const Scheme* scale) {
  return {name, &code, group, scale, scale, ZeroUnit::weight};
}

constexpr std::array standard_rows{
    Scheme{"f32", &named("f32")},
    Scheme{"f16", &named("f16")},
    Scheme{"bf16", &named("bf16")},
    // GGUF.
    Scheme{"q4_0", &named("int4"), per(32), f16},
    with_offset("q4_1", named("uint4"), per(32), f16),
    Scheme{"q5_0", &named("int5"), per(32), f16},
    with_offset("q5_1", named("uint5"), per(32), f16),
    Scheme{"q8_0", &named("int8"), per(32), f16},
    with_offset("q2_k", named("uint2"), per(16), &uint4_per_16),
    Scheme{"q3_k", &named("int3"), per(16), &int6_per_16},
    with_offset("q4_k", named("uint4"), per(32), &uint6_per_8),
    with_offset("q5_k", named("uint5"), per(32), &uint6_per_8),
    Scheme{"q6_k", &named("int6"), per(16), &int8_per_16},
    Scheme{"iq1_s", &named("iq1"), per(32), &odd3_per_8, nullptr, ZeroUnit::code, true},
    Scheme{"iq1_m", &named("iq1"), per(16), &odd3_per_16},
    Scheme{"iq2_xxs", &named("iq2_xxs"), per(32), &half_odd4_per_8},
    Scheme{"iq2_xs", &named("iq2_xs"), per(16), &half_odd4_per_16},
    Scheme{"iq2_s", &named("iq2_s"), per(16), &half_odd4_per_16},
    Scheme{"iq3_xxs", &named("iq3_xxs"), per(32), &half_odd4_2_per_8},
    Scheme{"iq3_s", &named("iq3_s"), per(32), &odd4_per_8},
    Scheme{"iq4_nl", &named("iq4_nl"), per(32), f16},
    Scheme{"iq4_xs", &named("iq4_nl"), per(32), &int6_per_8},
    Scheme{"tq1_0", &named("ternary"), per(256), f16},
    Scheme{"tq2_0", &named("ternary"), per(256), f16},
    Scheme{"q1_0", &named("binary"), per(128), f16},
    Scheme{"stq1_0", &named("sparse_ternary"), per(256), f16},
    // Microscaling (OCP) and its relative.
    Scheme{"mxfp4", &named("e2m1"), per(32), e8m0},
    Scheme{"nvfp4", &named("e2m1"), per(16), &ue4m3_per_tensor},
    Scheme{"mxfp6_e2m3", &named("e2m3"), per(32), e8m0},
    Scheme{"mxfp6_e3m2", &named("e3m2"), per(32), e8m0},
    Scheme{"mxfp8_e4m3", &named("e4m3"), per(32), e8m0},
    Scheme{"mxfp8_e5m2", &named("e5m2"), per(32), e8m0},
    Scheme{"mxint8", &named("mxint8"), per(32), e8m0},
    Scheme{"mxfp6", &named("e2m3"), per(32), e8m0},
    Scheme{"mxfp8", &named("e4m3"), per(32), e8m0},
    // Spelled by the grammar.
    Scheme{"nf4.g64", &named("nf4"), per(64), f16},
    Scheme{"e4m3.tensor", &named("e4m3"), whole_tensor, f16},
    Scheme{"e4m3.channel", &named("e4m3"), whole_row, f16},
    Scheme{"e4m3.g128", &named("e4m3"), per(128), f16},
    Scheme{"e4m3.block128", &named("e4m3"), {128, 128}, f16},
    // Learned for each tensor.
    Scheme{"lut2.g64", &named("lut2"), per(64), f16},
    Scheme{"lut3.g64", &named("lut3"), per(64), f16},
    Scheme{"lut4.g64", &named("lut4"), per(64), f16},
    Scheme{"vq4x2.g64", &named("vq4x2"), per(64), f16},
    Scheme{"vq6x2.g64", &named("vq6x2"), per(64), f16},
    Scheme{"vq8x2.g64", &named("vq8x2"), per(64), f16},
    Scheme{"vq8x4.g64", &named("vq8x4"), per(64), f16},
    // Activations and the KV cache.
    Scheme{"e4m3.token", &named("e4m3"), whole_row, f16},
    Scheme{"int8.token", &named("int8"), whole_row, f16},
    Scheme{"int8.g256", &named("int8"), per(256), f16},
};

/// intN.GROUP[.asym] for N = 2..8: every combination is a named scheme.
struct Granularity {
  std::string_view word;
  Group group;
};
constexpr std::array integer_granularities{
    Granularity{"tensor", whole_tensor}, Granularity{"channel", whole_row},
    Granularity{"g16", per(16)},         Granularity{"g32", per(32)},
    Granularity{"g64", per(64)},         Granularity{"g128", per(128)},
};
constexpr std::array integer_codes{&named("int2"), &named("int3"), &named("int4"), &named("int5"),
                                   &named("int6"), &named("int7"), &named("int8")};
constexpr std::string_view asym_word = "asym";
constexpr std::size_t n_integer_rows = integer_codes.size() * integer_granularities.size() * 2;

struct NameBuffer {
  std::array<char, sizeof("int8.channel.asym")> text{};
  std::size_t n_chars = 0;

  constexpr void add(std::string_view word) {
    if (n_chars != 0) text[n_chars++] = '.';
    for (const char c : word) text[n_chars++] = c;
  }
  constexpr std::string_view view() const { return {text.data(), n_chars}; }
};

/// Calls visit(index, code, granularity, asymmetric) for every row, in the order of the list.
template <class Visit>
constexpr void for_integer_rows(Visit visit) {
  std::size_t i = 0;
  for (const Code* code : integer_codes) {
    for (const bool asymmetric : {false, true}) {
      for (const Granularity& granularity : integer_granularities) {
        visit(i++, code, granularity, asymmetric);
      }
    }
  }
}

constexpr auto integer_names = [] {
  std::array<NameBuffer, n_integer_rows> names{};
  for_integer_rows([&](std::size_t i, const Code* code, const Granularity& granularity, bool asym) {
    names[i].add(code->name);
    names[i].add(granularity.word);
    if (asym) names[i].add(asym_word);
  });
  return names;
}();

constexpr auto all_rows = [] {
  std::array<Scheme, standard_rows.size() + n_integer_rows> rows{};
  std::ranges::copy(standard_rows, rows.begin());
  for_integer_rows([&](std::size_t i, const Code* code, const Granularity& granularity, bool asym) {
    rows[standard_rows.size() + i] = {integer_names[i].view(), code, granularity.group, f16,
                                      asym ? plain(code) : nullptr};
  });
  return rows;
}();

/// Schemes of scales that the grammar can spell; f16 is what no word means.
constexpr std::array scale_codes{&named("f16"), &named("bf16"), &named("f32"), &named("e8m0")};

bool same(const Scheme* a, const Scheme* b) {
  return a == b || (a != nullptr && b != nullptr && *a == *b);
}

const Scheme* listed(std::string_view name) {
  const auto* row = std::ranges::find(all_rows, name, &Scheme::name);
  return row != all_rows.end() ? row : nullptr;
}

/// v = first + code for all codes: only such a code can be a zero point.
bool is_integer_code(const Code& code) {
  if (code.formula != nullptr || code.dim != 1 || code.encoder != nullptr) return false;
  for (std::size_t i = 0; i < code.values.size(); ++i) {
    if (code.values[i] != code.values[0] + static_cast<float>(i)) return false;
  }
  return code.values[0] <= 0 && code.values.size() > 1;
}

bool is_plain_code(const Code& code) {
  return code.formula != nullptr;
}

/// The known name that is nearest to what was written; empty when none is near.
std::string_view nearest_name(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  std::string_view best;
  std::size_t best_distance = lower.size() / 3 + 2;
  const auto consider = [&](std::string_view name) {
    // q4_k_m is a file of q4_k: a name that the text begins with is near.
    const std::size_t distance =
        name.size() > 2 && lower.size() > name.size() && lower.starts_with(name)
            ? 1
            : edit_distance(lower, name);
    if (distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  };
  for (const Scheme& row : all_rows) consider(row.name);
  for (const Code& code : codes::list) consider(code.name);
  return best;
}

Error unknown_name(std::string_view text, std::string_view word) {
  const std::string_view name = nearest_name(text);
  return Error(fmt::format(
      "unknown scheme '{}': {}{} ('lowbit formats' lists all codes and schemes)", text,
      word.empty() ? "the name of a code is missing" : fmt::format("there is no code '{}'", word),
      name.empty() ? "" : fmt::format("; did you mean '{}'?", name)));
}

Error unknown_word(std::string_view text, std::string_view word) {
  return Error(fmt::format(
      "unknown word '{}' in scheme '{}': after the code may stand gN, blockN, channel, token or "
      "tensor, then asym, offset or zero, then f16, bf16, f32 or e8m0",
      word, text));
}

/// N of "gN": positive and not absurd.
std::optional<int> number_after(std::string_view prefix, std::string_view word) {
  constexpr int largest_group = 1 << 24;
  if (!word.starts_with(prefix)) return std::nullopt;
  int n = 0;
  const char* end = word.data() + word.size();
  const auto [rest, error] = std::from_chars(word.data() + prefix.size(), end, n);
  if (error != std::errc{} || rest != end || n < 1 || n > largest_group) return std::nullopt;
  return n;
}

std::optional<Group> group_named(std::string_view word) {
  if (word == "channel" || word == "token") return whole_row;
  if (word == "tensor") return whole_tensor;
  if (const auto n = number_after("g", word)) return per(*n);
  if (const auto n = number_after("block", word)) return Group{*n, *n};
  return std::nullopt;
}

enum class ZeroWord : std::uint8_t { none, asym, offset, zero };
constexpr std::array<std::string_view, 4> zero_words{"", asym_word, "offset", "zero"};

std::string group_word(Group group) {
  if (group == whole_row) return "channel";
  if (group == whole_tensor) return "tensor";
  if (group.rows == 1) return fmt::format("g{}", group.cols);
  if (group.rows == group.cols) return fmt::format("block{}", group.cols);
  return fmt::format("group{}x{}", group.rows, group.cols);
}

/// The words of a scheme. A scale that no word means stands in parentheses.
std::string spelled_out(const Scheme& scheme) {
  const std::string_view code = scheme.code->name;
  if (scheme.scale == nullptr && scheme.zero == nullptr) return std::string(code);
  std::string text = fmt::format("{}.{}", code, group_word(scheme.group));
  if (scheme.zero != nullptr) {
    ZeroWord word = ZeroWord::offset;
    if (scheme.zero_unit == ZeroUnit::code) {
      word = *scheme.zero == *plain(scheme.code) ? ZeroWord::asym : ZeroWord::zero;
    }
    text += fmt::format(".{}", zero_words[static_cast<std::size_t>(word)]);
  }
  if (scheme.scale == nullptr) return text + ".(1)";
  if (scheme.scale->scale != nullptr)
    return fmt::format("{}.({})", text, spelled_out(*scheme.scale));
  if (*scheme.scale == *f16) return text;
  return fmt::format("{}.{}", text, scheme.scale->code->name);
}

}  // namespace

bool operator==(const Scheme& a, const Scheme& b) {
  if (a.code != b.code && !(*a.code == *b.code)) return false;
  if (!same(a.scale, b.scale) || !same(a.zero, b.zero)) return false;
  const bool grouped = a.scale != nullptr || a.zero != nullptr;
  return (!grouped || a.group == b.group) && (a.zero == nullptr || a.zero_unit == b.zero_unit);
}

std::span<const Scheme> named_schemes() {
  return all_rows;
}

Result<Scheme> parse_scheme(std::string_view text) {
  if (const Scheme* row = listed(text)) return *row;
  std::vector<std::string_view> words;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('.', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  const Code* code = codes::find(words.front());
  if (code == nullptr) return unknown_name(text, words.front());
  if (is_plain_code(*code)) {
    return Error(fmt::format("scheme '{}': {} is a plain float and takes no further words", text,
                             code->name));
  }
  std::optional<Group> group;
  std::optional<ZeroWord> zero;
  const Scheme* scale = nullptr;
  for (const std::string_view word : std::span(words).subspan(1)) {
    const auto zero_word = std::ranges::find(zero_words, word);
    const auto scale_code = std::ranges::find(scale_codes, word, &Code::name);
    bool repeated = false;
    if (const auto parsed = group_named(word)) {
      repeated = group.has_value();
      group = parsed;
    } else if (!word.empty() && zero_word != zero_words.end()) {
      repeated = zero.has_value();
      zero = static_cast<ZeroWord>(zero_word - zero_words.begin());
    } else if (scale_code != scale_codes.end()) {
      repeated = scale != nullptr;
      scale = plain(*scale_code);
    } else {
      return unknown_word(text, word);
    }
    if (repeated) {
      return Error(fmt::format(
          "scheme '{}': '{}' says a second time what an earlier word said; leave one of them out",
          text, word));
    }
  }
  Scheme scheme{"", code, group.value_or(whole_row), scale != nullptr ? scale : f16};
  switch (zero.value_or(ZeroWord::none)) {
    case ZeroWord::none:
      break;
    case ZeroWord::asym:
      if (!is_integer_code(*code)) {
        return Error(fmt::format(
            "scheme '{}': asym needs an integer code (intN, uintN), {} has no integer zero point; "
            "use offset",
            text, code->name));
      }
      scheme.zero = plain(code);
      break;
    case ZeroWord::offset:
    case ZeroWord::zero:
      if (scheme.scale == e8m0) {
        return Error(fmt::format(
            "scheme '{}': a zero is stored like its scale, and e8m0 has no 0; use f16, bf16 or f32",
            text));
      }
      scheme.zero = scheme.scale;
      scheme.zero_unit = zero == ZeroWord::offset ? ZeroUnit::weight : ZeroUnit::code;
      break;
  }
  return scheme;
}

std::string to_string(const Scheme& scheme) {
  if (const Scheme* row = listed(scheme.name); row != nullptr && *row == scheme) {
    return std::string(row->name);
  }
  const auto* row = std::ranges::find_if(all_rows, [&](const Scheme& s) { return s == scheme; });
  return row != all_rows.end() ? std::string(row->name) : spelled_out(scheme);
}

bool is_plain_float(const Scheme& scheme) {
  return scheme.scale == nullptr && scheme.zero == nullptr && is_plain_code(*scheme.code);
}

double planar_bits_per_weight(const Scheme& scheme, std::int64_t rows, std::int64_t cols) {
  const auto n_groups = [](std::int64_t extent, int group) {
    return group == 0 ? 1 : (extent + group - 1) / group;
  };
  double bits = static_cast<double>(scheme.code->step) / scheme.code->dim;
  if (scheme.code->is_learned) {
    constexpr double bits_per_value = 8;
    bits += bits_per_value * static_cast<double>(scheme.code->values.size()) /
            (static_cast<double>(rows) * static_cast<double>(cols));
  }
  const std::int64_t down = n_groups(rows, scheme.group.rows);
  const std::int64_t across = n_groups(cols, scheme.group.cols);
  const double share = static_cast<double>(down) * static_cast<double>(across) /
                       (static_cast<double>(rows) * static_cast<double>(cols));
  for (const Scheme* plane : {scheme.scale, scheme.zero}) {
    if (plane != nullptr) bits += planar_bits_per_weight(*plane, down, across) * share;
  }
  return bits;
}

std::int64_t required_multiple(const Scheme& scheme) {
  const std::int64_t dim = scheme.code->dim;
  if (scheme.scale == nullptr || scheme.group.cols == 0) return dim;
  const bool two_level = scheme.scale->scale != nullptr;
  if (two_level && scheme.scale->group.cols != 0) {
    return std::int64_t{scheme.group.cols} * scheme.scale->group.cols;
  }
  if (two_level || *scheme.scale == *e8m0) return scheme.group.cols;
  return dim;
}

}  // namespace lowbit

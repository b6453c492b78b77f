// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/llama_mixes.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "lowbit/base/assert.h"
#include "lowbit/io/layout.h"
#include "lowbit/model/tensor_names.h"

namespace lowbit {
namespace {

constexpr std::array mixes{
    LlamaMix{"Q2_K", "q2_k"},       LlamaMix{"Q2_K_S", "q2_k"},   LlamaMix{"Q3_K_S", "q3_k"},
    LlamaMix{"Q3_K_M", "q3_k"},     LlamaMix{"Q3_K_L", "q3_k"},   LlamaMix{"Q4_0", "q4_0"},
    LlamaMix{"Q4_1", "q4_1"},       LlamaMix{"Q4_K_S", "q4_k"},   LlamaMix{"Q4_K_M", "q4_k"},
    LlamaMix{"Q5_0", "q5_0"},       LlamaMix{"Q5_1", "q5_1"},     LlamaMix{"Q5_K_S", "q5_k"},
    LlamaMix{"Q5_K_M", "q5_k"},     LlamaMix{"Q6_K", "q6_k"},     LlamaMix{"Q8_0", "q8_0"},
    LlamaMix{"IQ1_S", "iq1_s"},     LlamaMix{"IQ1_M", "iq1_m"},   LlamaMix{"IQ2_XXS", "iq2_xxs"},
    LlamaMix{"IQ2_XS", "iq2_xs"},   LlamaMix{"IQ2_S", "iq2_xs"},  LlamaMix{"IQ2_M", "iq2_s"},
    LlamaMix{"IQ3_XXS", "iq3_xxs"}, LlamaMix{"IQ3_XS", "iq3_s"},  LlamaMix{"IQ3_S", "iq3_s"},
    LlamaMix{"IQ3_M", "iq3_s"},     LlamaMix{"IQ4_NL", "iq4_nl"}, LlamaMix{"IQ4_XS", "iq4_xs"},
    LlamaMix{"TQ1_0", "tq1_0"},     LlamaMix{"TQ2_0", "tq2_0"},   LlamaMix{"Q1_0", "q1_0"},
    LlamaMix{"MXFP4_MOE", "q8_0"},  // mxfp4 is for experts alone
};

struct Alias {
  std::string_view name, mix;
};
constexpr std::array aliases{Alias{"Q3_K", "Q3_K_M"}, Alias{"Q4_K", "Q4_K_M"},
                             Alias{"Q5_K", "Q5_K_M"}};

enum class Role : std::uint8_t { head, embedding, q, k, v, o, gate, up, down };
struct RoleName {
  std::string_view name;
  Role role;
};
constexpr std::array layer_roles{
    RoleName{"self_attn.q_proj", Role::q}, RoleName{"self_attn.k_proj", Role::k},
    RoleName{"self_attn.v_proj", Role::v}, RoleName{"self_attn.o_proj", Role::o},
    RoleName{"mlp.gate_proj", Role::gate}, RoleName{"mlp.up_proj", Role::up},
    RoleName{"mlp.down_proj", Role::down}};

// Of n layers: the first n/8 ..., those between the first and the last n/8, and "more bits": the
// first n/8, from 7n/8 on, and every third between.
enum class In : std::uint8_t {
  all_layers,
  first_two,
  first_four,
  first_8th,
  first_16th,
  between_8ths,
  more_bits
};
enum class If : std::uint8_t { always, four_heads_per_key, calibrated, not_calibrated };

struct Row {
  std::string_view mixes;  // separated by blanks; any_mix: all
  Role role;
  In layers;
  If condition;
  std::string_view scheme;
};

constexpr std::string_view any_mix = "*";
// About two bits: their v and o follow rows of their own, whatever the model.
constexpr std::string_view two_bits = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M";

using enum Role;
using enum In;
using enum If;
/// THE table: the first row that matches decides, the mix's own scheme where none does.
constexpr std::array rows{
    Row{"Q8_0 MXFP4_MOE", head, all_layers, always, "q8_0"},
    Row{"IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS", head, all_layers, always, "q5_k"},
    Row{any_mix, head, all_layers, always, "q6_k"},

    Row{"IQ1_S IQ1_M IQ2_XXS IQ2_XS", embedding, all_layers, always, "q2_k"},
    Row{"IQ2_S IQ2_M IQ3_XXS", embedding, all_layers, always, "iq3_s"},
    Row{"TQ1_0 TQ2_0", embedding, all_layers, always, "q4_k"},

    Row{two_bits, v, all_layers, four_heads_per_key, "q4_k"},
    Row{"IQ2_S IQ2_M", v, all_layers, always, "iq3_s"},
    Row{two_bits, v, all_layers, always, "q2_k"},
    Row{"Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", v, all_layers, four_heads_per_key, "q4_k"},
    Row{"Q2_K", v, all_layers, always, "q3_k"},
    Row{"IQ3_XXS", v, all_layers, not_calibrated, "iq3_s"},
    Row{"IQ3_M", v, all_layers, always, "q4_k"},
    Row{"Q3_K_M", v, first_two, always, "q5_k"},
    Row{"Q3_K_M", v, all_layers, always, "q4_k"},
    Row{"Q3_K_L", v, all_layers, always, "q5_k"},
    Row{"IQ4_NL IQ4_XS", v, all_layers, four_heads_per_key, "q5_k"},
    Row{"Q4_K_M Q5_K_M", v, more_bits, always, "q6_k"},
    Row{"Q4_K_S", v, first_four, always, "q5_k"},

    Row{"IQ3_XS", q, all_layers, always, "iq3_xxs"},
    Row{"IQ3_XXS", q, all_layers, always, "iq2_s"},
    Row{"IQ3_XS", k, all_layers, always, "iq3_xxs"},
    Row{"IQ3_XXS", k, all_layers, always, "iq2_s"},

    Row{"IQ1_S IQ1_M", o, all_layers, always, "iq2_xxs"},
    Row{"IQ2_S IQ2_M IQ3_XXS", o, all_layers, always, "iq3_s"},
    Row{"Q2_K", o, all_layers, always, "q3_k"},
    Row{"Q3_K_M IQ3_M", o, all_layers, always, "q4_k"},
    Row{"Q3_K_L", o, all_layers, always, "q5_k"},

    Row{"IQ2_S IQ2_M", down, first_8th, always, "iq3_s"},
    Row{two_bits, down, first_8th, always, "q2_k"},
    Row{"Q2_K", down, all_layers, always, "q3_k"},
    Row{"Q2_K_S", down, first_8th, always, "q4_k"},
    Row{"IQ3_XXS", down, first_8th, not_calibrated, "q4_k"},
    Row{"IQ3_XXS", down, all_layers, not_calibrated, "q3_k"},
    Row{"Q3_K_M", down, first_16th, always, "q5_k"},
    Row{"Q3_K_M", down, all_layers, always, "q4_k"},
    Row{"Q3_K_L", down, all_layers, always, "q5_k"},
    Row{"IQ3_M", down, first_8th, always, "q4_k"},
    Row{"Q4_K_M Q5_K_M", down, more_bits, always, "q6_k"},
    Row{"Q4_K_S", down, first_8th, always, "q5_k"},
    Row{"IQ4_NL IQ4_XS", down, first_8th, not_calibrated, "q5_k"},
    Row{"Q4_0", down, first_8th, calibrated, "q4_1"},
    Row{"Q5_0", down, first_8th, calibrated, "q5_1"},

    Row{"IQ3_XS", gate, between_8ths, always, "iq3_xxs"},
    Row{"IQ3_XS", up, between_8ths, always, "iq3_xxs"},
};

struct FallbackRow {
  std::string_view schemes, fallback;
};
constexpr std::array fallbacks{
    FallbackRow{"iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s iq4_xs", "iq4_nl"},
    FallbackRow{"q2_k q3_k tq1_0 tq2_0", "q4_0"},
    FallbackRow{"q4_k", "q5_0"},
    FallbackRow{"q5_k", "q5_1"},
    FallbackRow{"q6_k", "q8_0"},
    FallbackRow{"iq4_nl q4_0 q4_1 q5_0 q5_1 q8_0 mxfp4", "f16"}};

bool has_word(std::string_view words, std::string_view word) {
  for (std::size_t at = words.find(word); at != std::string_view::npos;
       at = words.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || words[at - 1] == ' ') && (end == words.size() || words[end] == ' '))
      return true;
  }
  return false;
}

/// Of the words of a list, the one that means this scheme.
bool has_scheme(std::string_view words, const Scheme& scheme) {
  for (std::size_t at = 0; at < words.size();) {
    const std::size_t end = std::min(words.find(' ', at), words.size());
    if (*parse_scheme(words.substr(at, end - at)) == scheme) return true;
    at = end + 1;
  }
  return false;
}

struct Place {
  Role role = head;
  std::int64_t layer = 0;
};

Place place_of(const ModelConfig& config, std::string_view name) {
  const std::string_view role = role_of(name);
  if (role.empty()) {
    const bool is_head = config.tied_embeddings || name.starts_with("lm_head");
    return {is_head ? head : embedding, 0};
  }
  const auto found = std::ranges::find(layer_roles, role, &RoleName::name);
  LOWBIT_ASSERT(found != layer_roles.end());
  Place place{found->role, 0};
  const std::size_t digit = name.find_first_of("0123456789");
  std::from_chars(name.data() + digit, name.data() + name.size(), place.layer);
  return place;
}

bool holds(In layers, std::int64_t i, std::int64_t n) {
  constexpr std::int64_t eighths = 8, sixteenths = 16, two = 2, four = 4, every = 3;
  const std::int64_t first = n / eighths, last = (eighths - 1) * n / eighths;
  switch (layers) {
    case all_layers:
      return true;
    case first_two:
      return i < two;
    case first_four:
      return i < four;
    case first_8th:
      return i < first;
    case first_16th:
      return i < n / sixteenths;
    case between_8ths:
      return i >= first && i < last;
    case more_bits:
      return i < first || i >= last || (i - first) % every == every - 1;
  }
  return false;
}

bool holds(If condition, const ModelConfig& config, bool calibrated_inputs) {
  constexpr std::int64_t many_heads = 4;
  switch (condition) {
    case always:
      return true;
    case four_heads_per_key:
      return config.n_heads / config.n_kv_heads >= many_heads;
    case calibrated:
      return calibrated_inputs;
    case not_calibrated:
      return !calibrated_inputs;
  }
  return false;
}

/// Models of 70 billion parameters, whose v is small beside their q: known by their 80 layers.
bool is_70b(const ModelConfig& config) {
  constexpr std::int64_t n_layers_70b = 80;
  return config.n_layers == n_layers_70b &&
         (config.arch->name == "qwen2" ||
          (config.arch->name == "llama" && config.n_heads != config.n_kv_heads));
}

}  // namespace

std::span<const LlamaMix> llama_mix_list() {
  return mixes;
}

const LlamaMix* llama_mix_named(std::string_view name) {
  std::string upper(name);
  for (char& letter : upper) {
    letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  }
  for (const Alias& alias : aliases) {
    if (alias.name == upper) upper = alias.mix;
  }
  const auto found = std::ranges::find(mixes, upper, &LlamaMix::name);
  return found == mixes.end() ? nullptr : &*found;
}

Scheme llama_mix_scheme(const LlamaMix& mix, const ModelConfig& config,
                        std::string_view canonical_name, std::int64_t cols,
                        bool calibrated_inputs) {
  const Place place = place_of(config, canonical_name);
  const Scheme own = *parse_scheme(mix.scheme);
  // Where the mix's own blocks do not divide the rows, the head is better off with eight bits than
  // with the fallback of q6_k.
  if (place.role == head && cols % layout_for_scheme(own)->n_numbers != 0) {
    return *parse_scheme("q8_0");
  }
  const auto row = std::ranges::find_if(rows, [&](const Row& candidate) {
    return candidate.role == place.role &&
           (candidate.mixes == any_mix || has_word(candidate.mixes, mix.name)) &&
           holds(candidate.layers, place.layer, config.n_layers) &&
           holds(candidate.condition, config, calibrated_inputs);
  });
  const Scheme scheme = row == rows.end() ? own : *parse_scheme(row->scheme);
  if (place.role == v && is_70b(config) && !has_word(two_bits, mix.name) &&
      has_scheme("q3_k q4_k", scheme)) {
    return *parse_scheme("q5_k");
  }
  return scheme;
}

std::optional<Scheme> llama_fallback(const Scheme& scheme) {
  for (const FallbackRow& row : fallbacks) {
    if (has_scheme(row.schemes, scheme)) return *parse_scheme(row.fallback);
  }
  return std::nullopt;
}

bool llama_wants_imatrix(const LlamaMix& mix, const Scheme& scheme,
                         std::string_view canonical_name) {
  if (role_of(canonical_name).empty()) return false;
  return has_scheme("iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs", scheme) ||
         (mix.name == "Q2_K_S" && has_scheme("q2_k", scheme));
}

}  // namespace lowbit

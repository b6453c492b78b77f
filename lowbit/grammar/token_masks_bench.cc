// SPDX-License-Identifier: Apache-2.0
// Time a mask costs per token, at the vocabulary sizes of common models: `walk` follows whole
// documents of 60 free tokens, so that known and unknown masks come as they do while serving;
// `unknown` forgets everything before each mask inside a string, `known` asks for the same one
// again. A decode step of a model with a billion 4-bit weights takes about 12 ms on two cores; what
// is allowed is 5 % of that, 0.6 ms.
#include <benchmark/benchmark.h>

#include <bit>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "lowbit/grammar/json_schema.h"
#include "lowbit/grammar/synthetic_vocabulary.h"
#include "lowbit/grammar/token_masks.h"

namespace lowbit {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* person = R"({"type": "object", "properties": {
  "name": {"type": "string", "minLength": 1, "maxLength": 200},
  "age": {"type": "integer", "minimum": 0, "maximum": 150},
  "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
  "role": {"enum": ["admin", "user", "guest"]},
  "notes": {"type": "array", "items": {"type": "string"}},
  "extra": {}}, "required": ["name", "age", "role", "notes"]})";

struct Setting {
  std::shared_ptr<const TokenVocabulary> vocabulary;
  std::shared_ptr<const Grammar> grammar;
};

Setting setting_of(std::size_t n_tokens, const char* schema) {
  std::vector<std::string> tokens = synthetic_vocabulary(n_tokens);
  const auto end = static_cast<TokenId>(n_tokens - 1);
  return {*TokenVocabulary::create(std::move(tokens), {end}),
          *compile_json_schema(Json::parse(schema))};
}

// Random allowed tokens, chosen outside of the time that is measured.
TokenId choose(const std::vector<std::uint64_t>& mask, std::mt19937& random) {
  std::size_t n_allowed = 0;
  for (const std::uint64_t word : mask) n_allowed += static_cast<std::size_t>(std::popcount(word));
  std::size_t skip = random() % n_allowed;
  for (std::size_t w = 0; w < mask.size(); ++w) {
    const auto here = static_cast<std::size_t>(std::popcount(mask[w]));
    if (skip >= here) {
      skip -= here;
      continue;
    }
    std::uint64_t word = mask[w];
    for (; skip > 0; --skip) word &= word - 1;
    return static_cast<TokenId>(w * 64 + static_cast<std::size_t>(std::countr_zero(word)));
  }
  return 0;
}

void walk(benchmark::State& state, const char* schema) {
  const Setting s = setting_of(static_cast<std::size_t>(state.range(0)), schema);
  std::vector<std::uint64_t> mask(s.vocabulary->n_mask_words());
  std::mt19937 random(1);
  std::unique_ptr<TokenConstraint> constraint;
  std::shared_ptr<TokenMasks> masks;
  int n_left = 0, n_documents = 0;
  for (auto _ : state) {
    if (n_left == 0) {
      state.PauseTiming();
      // A new schema now and then: first masks are part of what it costs.
      if (n_documents++ % 4 == 0) masks = std::make_shared<TokenMasks>(s.grammar, s.vocabulary);
      constraint = constrain(masks);
      n_left = 60;
      state.ResumeTiming();
    }
    constraint->fill_mask(mask);
    state.PauseTiming();
    const TokenId chosen = choose(mask, random);
    state.ResumeTiming();
    constraint->accept(chosen);
    if (--n_left > 0 && constraint->is_complete()) n_left = 0;
  }
}

void known(benchmark::State& state) {
  const Setting s = setting_of(static_cast<std::size_t>(state.range(0)), "{\"type\": \"string\"}");
  std::vector<std::uint64_t> mask(s.vocabulary->n_mask_words());
  const auto constraint = constrain(s.grammar, s.vocabulary);
  constraint->accept('"');
  for (auto _ : state) constraint->fill_mask(mask);
}

void unknown(benchmark::State& state, const char* schema) {
  const Setting s = setting_of(static_cast<std::size_t>(state.range(0)), schema);
  std::vector<std::uint64_t> mask(s.vocabulary->n_mask_words());
  for (auto _ : state) {
    state.PauseTiming();
    const auto constraint = constrain(s.grammar, s.vocabulary);
    constraint->accept('"');
    state.ResumeTiming();
    constraint->fill_mask(mask);
  }
}

BENCHMARK_CAPTURE(walk, person, person)->Arg(49'152)->Arg(151'936);
BENCHMARK_CAPTURE(walk, any, "{\"type\": \"object\"}")->Arg(49'152)->Arg(151'936);
BENCHMARK(known)->Arg(49'152)->Arg(151'936);
BENCHMARK_CAPTURE(unknown, string, "{\"type\": \"string\"}")->Arg(49'152)->Arg(151'936);
BENCHMARK_CAPTURE(unknown, counted, R"({"type": "string", "maxLength": 200})")
    ->Arg(49'152)
    ->Arg(151'936);
BENCHMARK_CAPTURE(unknown, pattern, R"({"type": "string", "pattern": "^[A-Za-z ]*$"})")
    ->Arg(49'152)
    ->Arg(151'936);

}  // namespace
}  // namespace lowbit

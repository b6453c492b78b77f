// SPDX-License-Identifier: Apache-2.0
// The reference is numpy: tests/golden/make_sampler.py.
#include "lowbit/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lowbit/base/math.h"
#include "lowbit/kernels/kernel_table.h"
#include "lowbit/runtime/philox.h"

namespace lowbit {
namespace {

using nlohmann::json;

struct Golden {
  std::vector<float> logits;
  std::vector<std::int32_t> prompt, generated;
  json cases;
  std::vector<double> chi_square_limits;  // 1e-6 quantiles, by the number of cells
};

Golden load_golden() {
  std::ifstream file(LOWBIT_SOURCE_DIR "/tests/golden/sampler/golden.json");
  const json source = json::parse(file);
  Golden golden;
  for (const json& logit : source["logits"]) {
    golden.logits.push_back(logit.is_null() ? -std::numeric_limits<float>::infinity()
                                            : logit.get<float>());
  }
  golden.prompt = source["prompt"].get<std::vector<std::int32_t>>();
  golden.generated = source["generated"].get<std::vector<std::int32_t>>();
  golden.cases = source["cases"];
  golden.chi_square_limits = source["chi_square_limits"].get<std::vector<double>>();
  return golden;
}

SamplingParams params_of(const json& source) {
  SamplingParams params;
  params.temperature = source.value("temperature", params.temperature);
  params.top_k = source.value("top_k", params.top_k);
  params.top_p = source.value("top_p", params.top_p);
  params.min_p = source.value("min_p", params.min_p);
  params.repetition_penalty = source.value("repetition_penalty", params.repetition_penalty);
  params.presence_penalty = source.value("presence_penalty", params.presence_penalty);
  params.frequency_penalty = source.value("frequency_penalty", params.frequency_penalty);
  if (source.contains("logit_bias")) {
    params.logit_bias = source["logit_bias"].get<std::vector<std::pair<std::int32_t, float>>>();
  }
  return params;
}

TEST(Sampler, DistributionsEqualNumpy) {
  const Golden golden = load_golden();
  ASSERT_GT(golden.cases.size(), 15u);
  Sampler sampler;
  for (const json& test : golden.cases) {
    const SamplingParams params = params_of(test["params"]);
    ASSERT_TRUE(check(params, static_cast<std::int64_t>(golden.logits.size())));
    const auto found =
        sampler.distribution(golden.logits, params, {golden.prompt, golden.generated});
    double total = 0;
    for (const Candidate& candidate : found) total += candidate.weight;
    std::map<std::int32_t, double> probabilities;
    for (const Candidate& candidate : found) {
      if (candidate.weight > 0) probabilities[candidate.token] = candidate.weight / total;
    }
    EXPECT_EQ(probabilities.size(), test["probabilities"].size()) << test["params"];
    // A weight is exp of an f32 of at most a few roundings: with |x| the largest distance from the
    // top and 5 operations before it, the relative error is below exp_bound + 5 |x| 2^-24; the sum
    // doubles it. |x| < 150 here.
    const double bound = 2 * (math::exp_bound + 5 * 150 * 0x1p-24);
    for (const json& expected : test["probabilities"]) {
      const double p = expected[1].get<double>();
      EXPECT_NEAR(probabilities[expected[0].get<std::int32_t>()], p, p * bound)
          << test["params"] << " token " << expected[0];
    }
  }
}

TEST(Sampler, DrawsPassChiSquare) {
  const Golden golden = load_golden();
  constexpr int n_draws = 20000;
  constexpr double least_expected = 5;
  Sampler sampler;
  for (const json& test : golden.cases) {
    SamplingParams params = params_of(test["params"]);
    params.seed = 0x123456789abcdef;
    std::map<std::int32_t, int> counts;
    for (std::uint64_t position = 0; position < n_draws; ++position) {
      ++counts[sampler.sample(golden.logits, params, {golden.prompt, golden.generated}, position)];
    }
    // Cells with few expected draws are joined into one.
    double chi_square = 0, rest_expected = 0;
    int rest_found = n_draws;
    std::size_t n_cells = 0;
    for (const json& expected : test["probabilities"]) {
      const double wanted = expected[1].get<double>() * n_draws;
      const int found = counts[expected[0].get<std::int32_t>()];
      if (wanted < least_expected) {
        rest_expected += wanted;
        continue;
      }
      chi_square += (found - wanted) * (found - wanted) / wanted;
      rest_found -= found;
      ++n_cells;
    }
    if (rest_expected >= 1) {
      chi_square += (rest_found - rest_expected) * (rest_found - rest_expected) / rest_expected;
      ++n_cells;
    } else {
      EXPECT_LE(rest_found, 15) << test["params"];
    }
    EXPECT_LE(chi_square, golden.chi_square_limits[n_cells]) << test["params"] << " " << n_cells;
  }
}

TEST(Sampler, IsAPureFunctionOfSeedAndPosition) {
  const Golden golden = load_golden();
  SamplingParams params;
  params.seed = 5;
  Sampler fresh_each_time, used;
  std::vector<std::int32_t> forwards, backwards;
  for (std::uint64_t i = 0; i < 50; ++i) {
    forwards.push_back(Sampler().sample(golden.logits, params, {}, i));
    backwards.push_back(used.sample(golden.logits, params, {}, 49 - i));
  }
  std::reverse(backwards.begin(), backwards.end());
  EXPECT_EQ(forwards, backwards);
  params.seed = 6;
  std::vector<std::int32_t> other;
  for (std::uint64_t i = 0; i < 50; ++i) {
    other.push_back(used.sample(golden.logits, params, {}, i));
  }
  EXPECT_NE(forwards, other);
}

TEST(Sampler, TiesAndOddLogits) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  Sampler sampler;
  SamplingParams greedy;
  greedy.temperature = 0;
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 3, 2}, greedy, {}, 0), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{nan, 3, nan, 4}, greedy, {}, 0), 3);
  EXPECT_EQ(sampler.sample(std::vector<float>{nan, nan}, greedy, {}, 0), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{0, infinity, 1}, SamplingParams{}, {}, 0), 1);
  SamplingParams two;
  two.top_k = 2;
  const std::vector<float> tied{1, 1, 1, 1};
  for (std::uint64_t position = 0; position < 64; ++position) {
    EXPECT_LT(sampler.sample(tied, two, {}, position), 2);
    const std::int32_t token =
        sampler.sample(std::vector<float>{nan, -infinity, 2, 2}, SamplingParams{}, {}, position);
    EXPECT_GE(token, 2);
  }
}

TEST(Sampler, LargeVocabularyKeepsTheSameMass) {
  // All weigh nearly the same: many buckets' worth of candidates, most of them in few buckets.
  constexpr std::int64_t n_vocab = 60000;
  std::vector<float> logits;
  for (std::int64_t i = 0; i < n_vocab; ++i) {
    logits.push_back(static_cast<float>((i * 7919) % n_vocab) / 1e5f);
  }
  SamplingParams params;
  params.top_p = 0.5f;
  Sampler sampler;
  const auto kept = sampler.distribution(logits, params, {});
  double all = 0, sum = 0;
  for (const float logit : logits) all += std::exp(static_cast<double>(logit - kept[0].logit));
  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  all *= std::exp(-top) * std::exp(static_cast<double>(kept[0].logit));
  for (const Candidate& candidate : kept) sum += candidate.weight;
  EXPECT_NEAR(sum / all, 0.5, 1e-4);
  // The fewest: none that was left out is likelier than one that was kept.
  const auto least = std::ranges::min_element(kept, {}, &Candidate::logit);
  const auto n_likelier =
      std::ranges::count_if(logits, [&](float logit) { return logit >= least->logit; });
  EXPECT_EQ(n_likelier, std::ssize(kept));
}

std::vector<float> random_logits(std::size_t n_vocab, float deviation) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(n_vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

/// The draw read aloud: the first token at which the weights in the order of ids pass it. Sums
/// differ in the last places, so a draw at a border could differ; none of these is.
TEST(Sampler, DrawsFromAllTokensInTheOrderOfIds) {
  const std::vector<float> logits = random_logits(5000, 1);
  const double top = static_cast<double>(*std::ranges::max_element(logits));
  for (const float temperature : {0.5f, 1.0f, 1.7f}) {
    const auto weight_of = [&](float logit) {
      return std::exp((static_cast<double>(logit) - top) / static_cast<double>(temperature));
    };
    double total = 0;
    for (const float logit : logits) total += weight_of(logit);
    Sampler sampler;
    for (std::uint64_t position = 0; position < 300; ++position) {
      const SamplingParams params{.temperature = temperature, .seed = 3};
      double left = uniform_draw(params.seed, position) * total;
      std::size_t expected = 0;
      while ((left -= weight_of(logits[expected])) >= 0) ++expected;
      EXPECT_EQ(sampler.sample(logits, params, {}, position), static_cast<std::int32_t>(expected));
    }
  }
}

TEST(Sampler, EveryInstructionSetDrawsTheSame) {
  std::vector<float> logits = random_logits(3001, 3);
  logits[7] = logits[2900] = std::nanf("");
  const std::vector<SamplingParams> settings{{},
                                             {.temperature = 0},
                                             {.temperature = 1.5f, .top_k = 40, .top_p = 0.9f},
                                             {.top_p = 0.95f},
                                             {.min_p = 0.02f},
                                             {.presence_penalty = 1, .seed = 4}};
  const std::vector<std::int32_t> generated{1, 2, 2000};
  for (const KernelTable* table : available_kernels()) {
    Sampler reference, fast(table->vector);
    for (const SamplingParams& params : settings) {
      for (std::uint64_t position = 0; position < 50; ++position) {
        EXPECT_EQ(fast.sample(logits, params, {{}, generated}, position),
                  reference.sample(logits, params, {{}, generated}, position))
            << name_of(table->isa);
      }
    }
  }
}

/// Around the blocks that tokens are looked at in.
TEST(Sampler, TopKIsThatOfAFullSort) {
  std::vector<float> logits = random_logits(5000, 1);
  std::fill_n(logits.begin(), 1023, -9.0f);
  logits[1023] = 9;
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; });
  Sampler sampler;
  for (const std::int64_t top_k : {2, 1023, 1024, 1025, 2048, 4999, 5000}) {
    const auto found = sampler.distribution(logits, {.top_k = top_k}, {});
    ASSERT_EQ(std::ssize(found), top_k);
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].token, order[i]) << top_k << ", place " << i;
    }
  }
}

TEST(Sampler, NotANumberIsNeverAmongTheLikeliest) {
  std::vector<float> logits = random_logits(2000, 1);
  for (std::size_t i = 0; i < logits.size(); i += 2) logits[i] = std::nanf("");
  Sampler sampler;
  for (const SamplingParams& params :
       {SamplingParams{.top_k = 5000}, SamplingParams{.top_p = 0.999f}, SamplingParams{}}) {
    const auto found = sampler.distribution(logits, params, {});
    EXPECT_GT(found.size(), 900u);
    for (const Candidate& candidate : found) EXPECT_EQ(candidate.token % 2, 1);
  }
}

TEST(Sampler, ParametersOutOfRangeAreNamed) {
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    auto checked = check(params, 100);
    return checked ? std::string() : checked.error().message();
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message([](SamplingParams&) {}), "");
  EXPECT_NE(message([](auto& p) { p.temperature = -1; }).find("temperature is -1"),
            std::string::npos);
  EXPECT_NE(message([](auto& p) { p.temperature = nan; }).find("temperature"), std::string::npos);
  EXPECT_NE(message([](auto& p) { p.top_k = -3; }).find("top_k is -3"), std::string::npos);
  EXPECT_NE(message([](auto& p) { p.top_p = 0; }).find("top_p"), std::string::npos);
  EXPECT_NE(message([](auto& p) { p.top_p = 1.5f; }).find("top_p"), std::string::npos);
  EXPECT_NE(message([](auto& p) { p.min_p = nan; }).find("min_p"), std::string::npos);
  EXPECT_NE(message([](auto& p) { p.repetition_penalty = 0; }).find("repetition"),
            std::string::npos);
  EXPECT_NE(message([](auto& p) { p.presence_penalty = nan; }).find("presence"), std::string::npos);
  EXPECT_NE(message([](auto& p) { p.frequency_penalty = nan; }).find("frequency"),
            std::string::npos);
  EXPECT_NE(message([](auto& p) {
              p.logit_bias = {{100, 1.0f}};
            }).find("0 to 99"),
            std::string::npos);
  EXPECT_NE(message([](auto& p) {
              p.logit_bias = {{-1, 1.0f}};
            }).find("0 to 99"),
            std::string::npos);
}

// Known answers of the authors' distribution of Philox (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<std::uint64_t> mask_of(const std::vector<std::int32_t>& tokens, std::size_t n_vocab) {
  std::vector<std::uint64_t> mask((n_vocab + 63) / 64);
  for (const std::int32_t token : tokens) {
    mask[static_cast<std::size_t>(token / 64)] |= std::uint64_t{1} << (token % 64);
  }
  return mask;
}

/// A mask is a bias of minus infinity for every other token: after the penalties, before all else.
TEST(Sampler, AMaskForbidsTheOthers) {
  const Golden golden = load_golden();
  const std::size_t n_vocab = golden.logits.size();
  std::vector<std::int32_t> allowed;
  for (std::size_t id = 0; id < n_vocab; id += 1 + id % 3) {
    allowed.push_back(static_cast<std::int32_t>(id));
  }
  const std::vector<std::uint64_t> mask = mask_of(allowed, n_vocab);
  const EarlierTokens earlier{golden.prompt, golden.generated};
  for (const json& source : golden.cases) {
    const SamplingParams params = params_of(source["params"]);
    SamplingParams biased = params;
    for (std::size_t id = 0; id < n_vocab; ++id) {
      if ((mask[id / 64] >> (id % 64) & 1) == 0) {
        biased.logit_bias.emplace_back(static_cast<std::int32_t>(id),
                                       -std::numeric_limits<float>::infinity());
      }
    }
    Sampler by_mask, by_bias;
    for (std::uint64_t position = 0; position < 20; ++position) {
      const std::int32_t token = by_mask.sample(golden.logits, params, earlier, position, mask);
      EXPECT_EQ(token, by_bias.sample(golden.logits, biased, earlier, position));
      EXPECT_TRUE(std::ranges::binary_search(allowed, token)) << token;
    }
  }
}

TEST(Sampler, AMaskHoldsWhateverTheLogitsAre) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float number : {-infinity, std::nanf(""), infinity, 0.0f}) {
    const std::vector<float> logits(200, number);
    for (const float temperature : {0.0f, 2.0f}) {
      for (const std::int32_t only : {0, 63, 64, 199}) {
        Sampler sampler;
        EXPECT_EQ(sampler.sample(logits, {.temperature = temperature}, {}, 7,
                                 mask_of({only}, logits.size())),
                  only);
      }
    }
  }
  // The only allowed token is one that the model, or the user, rules out.
  std::vector<float> logits(200, 1.0f);
  logits[130] = -infinity;
  Sampler sampler;
  EXPECT_EQ(sampler.sample(logits, {}, {}, 1, mask_of({130}, logits.size())), 130);
}

}  // namespace
}  // namespace lowbit

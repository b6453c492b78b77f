// SPDX-License-Identifier: Apache-2.0
// Every transform alone, without rounding: the model says what it said before.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/compress/awq.h"
#include "lowbit/compress/fold.h"
#include "lowbit/compress/rotate.h"
#include "lowbit/compress/smooth.h"
#include "lowbit/compress/transforms.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

constexpr std::int64_t n_tokens = 24;

std::vector<std::int32_t> tokens_of(const ModelConfig& config, int seed) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < n_tokens; ++i) {
    tokens.push_back(static_cast<std::int32_t>((i * 31 + i * i + 7 * seed) % config.n_vocab));
  }
  return tokens;
}

/// Of every token, with f32 activations and f32 keys and values.
std::vector<float> logits_of(const TensorSource& source, ThreadPool& pool) {
  const auto backend = *make_cpu_backend(pool);
  auto weights = load_weights(source, *backend,
                              {.activations = Activations::f32, .decode_without_kernel = true});
  EXPECT_TRUE(weights) << weights.error().message();
  const ModelConfig& config = source.config();
  auto cache = KvCache::create(
      *backend, {KvKind::f32, config.n_layers, config.n_kv_heads, config.head_dim}, n_tokens);
  KvSequence kv;
  EXPECT_TRUE(cache && cache->grow(kv, n_tokens));
  const std::vector<std::int32_t> tokens = tokens_of(config, 0);
  Forward forward(*backend, *weights, n_tokens);
  const MatrixView logits = forward.run(std::array{StepSequence{tokens, 0, &kv, n_tokens}}, *cache);
  std::vector<float> result(logits.data, logits.data + logits.rows * logits.cols);
  cache->release(kv);
  return result;
}

/// Folding rounds every number of a matrix at most twice, so a product moves by up to 2 eps sum
/// |w||x|, about 2 eps sqrt(n) of its own size (n inputs, no cancellation beyond a random walk's).
/// The 2 layers have 14 products in a row, and a norm or softmax passes on relative errors at most
/// a few times larger: 14 * 2 * 2^-24 * sqrt(104) * 4 < 1e-4 of the largest logit.
void expect_same_logits(const std::vector<float>& expected, const std::vector<float>& found) {
  ASSERT_EQ(found.size(), expected.size());
  float largest = 0, most = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i]));
    most = std::max(most, std::fabs(found[i] - expected[i]));
  }
  EXPECT_GT(largest, 0.1f);
  EXPECT_LT(most, 1e-4f * largest);
}

/// Every kind of model that differs in what can be folded.
std::vector<RandomModel::Options> models() {
  return {{.seed = 1, .biases = false, .qk_norm = false},
          {.seed = 2, .biases = true, .qk_norm = false, .tied = true},
          {.seed = 3, .biases = false, .qk_norm = true},
          {.seed = 4, .biases = true, .qk_norm = true, .tied = true}};
}

/// What quantize_blocks makes of the tensors that options name.
QuantizedModel quantized(const TensorSource& source, const PipelineOptions& options,
                         ThreadPool& pool) {
  QuantizedModel result(source);
  const auto report = quantize_blocks(
      source, options,
      [&](const std::string& name, QuantizedTensor tensor) -> Status {
        result.replace(name, std::move(tensor));
        return ok();
      },
      pool);
  EXPECT_TRUE(report) << report.error().message();
  return result;
}

/// Every matrix as the transforms leave it; inputs are captured from two short windows.
QuantizedModel transformed(const RandomModel& model, const BlockTransform& transform,
                           ThreadPool& pool) {
  PipelineOptions options;
  options.recipe_of = [](std::string_view) { return std::optional<TensorRecipe>(); };
  options.windows = {tokens_of(model.config(), 1), tokens_of(model.config(), 2)};
  options.transforms = {transform};
  return quantized(model, options, pool);
}

/// The recipe for tensors whose names have `part`.
std::function<std::optional<TensorRecipe>(std::string_view)> recipe_where(std::string_view part,
                                                                          std::string_view recipe) {
  return [part, parsed = *parse_tensor_recipe(recipe)](std::string_view name) {
    return name.find(part) != std::string_view::npos ? std::optional(parsed) : std::nullopt;
  };
}

/// Between the logits of two models, squared.
double distance(const TensorSource& a, const TensorSource& b, ThreadPool& pool) {
  const std::vector<float> expected = logits_of(a, pool), found = logits_of(b, pool);
  double sum = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    sum += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
  }
  return sum;
}

TEST(Fold, PowersOfTwoChangeNoBit) {
  ThreadPool pool(2);
  for (const RandomModel::Options& options : models()) {
    const RandomModel model(options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph);
    FoldedModel folded(model);
    std::mt19937 random(11);
    for (const Fold& fold : graph->folds) {
      std::vector<float> factors;
      for (std::int64_t i = 0; i < fold.n_channels; ++i) {
        factors.push_back(std::ldexp(1.0f, static_cast<int>(random() % 7) - 3));
      }
      folded.scale(fold, std::move(factors));
    }
    EXPECT_NE(decode(*folded.load("model.layers.0.self_attn.v_proj.weight")),
              decode(*model.load("model.layers.0.self_attn.v_proj.weight")));
    EXPECT_EQ(logits_of(folded, pool), logits_of(model, pool)) << "seed " << options.seed;
  }
}

TEST(Fold, AnyFactorsKeepTheLogits) {
  ThreadPool pool(2);
  for (const RandomModel::Options& options : models()) {
    const RandomModel model(options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph);
    FoldedModel folded(model);
    std::mt19937 random(12);
    std::uniform_real_distribution<float> factor(0.2f, 5.0f);
    for (const Fold& fold : graph->folds) {
      std::vector<float> factors(static_cast<std::size_t>(fold.n_channels));
      for (float& number : factors) number = factor(random);
      folded.scale(fold, std::move(factors));
    }
    expect_same_logits(logits_of(model, pool), logits_of(folded, pool));
  }
}

TEST(SmoothQuant, FactorsFollowTheFormula) {
  const std::vector<float> max_x{16, 4, 0, 1}, max_w{4, 1, 3, 0};
  EXPECT_EQ(smooth_factors(max_x, max_w, 0.5), (std::vector<float>{2, 2, 1, 1}));
  EXPECT_EQ(smooth_factors(max_x, max_w, 1), (std::vector<float>{16, 4, 1, 1}));
  EXPECT_EQ(smooth_factors(max_x, max_w, 0), (std::vector<float>{0.25f, 1, 1, 1}));
}

TEST(SmoothQuant, KeepsTheLogits) {
  ThreadPool pool(2);
  for (const RandomModel::Options& options : models()) {
    const RandomModel model(options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph);
    const QuantizedModel smooth = transformed(model, smoothquant(*graph), pool);
    // Norms, biases of v where there are some, and 7 matrices of each layer.
    EXPECT_EQ(smooth.replaced().size(), options.biases ? 2u * 10u : 2u * 9u);
    expect_same_logits(logits_of(model, pool), logits_of(smooth, pool));
  }
}

/// What smoothing is for: the largest inputs come down to the range of the others.
TEST(SmoothQuant, LowersOutliersOfInputs) {
  ThreadPool pool(2);
  RandomModel model({.seed = 5});
  // Channel 3 of every norm is 30 times as large as the others.
  for (auto& [name, tensor] : model.tensors()) {
    if (!name.ends_with("layernorm.weight")) continue;
    std::vector<float> numbers = decode(tensor);
    numbers[3] *= 30;
    tensor = encode_plain(numbers, *parse_scheme("f32"), 1, tensor.cols);
  }
  const auto graph = trace_model(model);
  ASSERT_TRUE(graph);
  const QuantizedModel smooth = transformed(model, smoothquant(*graph), pool);
  const auto outlier_of = [&](const TensorSource& source) {
    const auto stats =
        collect_statistics(source, {tokens_of(model.config(), 1)}, Needs::activations, pool);
    EXPECT_TRUE(stats);
    const std::vector<float>& max_abs = stats->at("model.layers.1.mlp.up_proj.weight").max_abs;
    std::vector<float> sorted = max_abs;
    std::ranges::sort(sorted);
    return max_abs[3] / sorted[sorted.size() / 2];
  };
  EXPECT_GT(outlier_of(model), 15.0f);
  EXPECT_LT(outlier_of(smooth), 8.0f);
}

TEST(Awq, ScalesKeepTheLogits) {
  ThreadPool pool(2);
  const TensorRecipe recipe = *parse_tensor_recipe("rtn:int3.g32");
  for (const RandomModel::Options& options : models()) {
    const RandomModel model(options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph);
    const QuantizedModel scaled =
        transformed(model,
                    awq(*graph, [&](std::string_view) { return recipe; },
                        {.n_ratios = 3, .n_clip_levels = 0, .n_rows = 32}),
                    pool);
    EXPECT_EQ(scaled.replaced().size(), options.biases ? 2u * 10u : 2u * 9u);
    expect_same_logits(logits_of(model, pool), logits_of(scaled, pool));
  }
}

/// In groups of 32 some inputs are far larger: awq gives their columns more of the grid, so that
/// what the layer puts out comes nearer to the exact. Only the last feed-forward is rounded, so
/// that the logits show its error and no attention makes a chaos of it.
TEST(Awq, LowersTheErrorOfTheLogits) {
  ThreadPool pool(2);
  RandomModel model({.seed = 6});
  for (auto& [name, tensor] : model.tensors()) {
    if (name != "model.layers.1.post_attention_layernorm.weight") continue;
    std::vector<float> numbers = decode(tensor);
    for (std::size_t i = 5; i < numbers.size(); i += 24) numbers[i] *= 12;
    tensor = encode_plain(numbers, *parse_scheme("f32"), 1, tensor.cols);
  }
  const auto recipe_of = recipe_where("layers.1.mlp", "rtn-absmax:int3.g32");
  const auto graph = trace_model(model);
  ASSERT_TRUE(graph);
  const auto error_of = [&](const std::vector<BlockTransform>& transforms) {
    PipelineOptions options;
    options.recipe_of = recipe_of;
    options.windows = {tokens_of(model.config(), 0), tokens_of(model.config(), 2)};
    options.transforms = transforms;
    return distance(model, quantized(model, options, pool), pool);
  };
  const double plain = error_of({});
  const double scaled = error_of({awq(*graph, recipe_of, {.n_clip_levels = 0})});
  const double clipped = error_of({awq(*graph, recipe_of)});
  EXPECT_LT(scaled, 0.9 * plain);
  EXPECT_LT(clipped, plain);
}

/// In double precision each number of a matrix is rounded once per rotation of its rows or columns,
/// and x once per stage of a run-time rotation, so expect_same_logits() holds here too.
TEST(Hadamard, KeepsTheLogits) {
  ThreadPool pool(2);
  for (const RandomModel::Options& options : models()) {
    const RandomModel model(options);
    const auto graph = trace_model(model);
    ASSERT_TRUE(graph);
    for (const RotateOptions& form :
         {RotateOptions{}, RotateOptions{.with_bases = false}, RotateOptions{.fold_streams = false},
          RotateOptions{.largest_block = 4}}) {
      FoldedModel turned(model);
      const Status done = rotate(*graph, form, turned, pool);
      ASSERT_TRUE(done) << done.error().message();
      expect_same_logits(logits_of(model, pool), logits_of(turned, pool));
      const std::string down = "model.layers.1.mlp.down_proj.weight";
      const std::string up = "model.layers.1.mlp.up_proj.weight";
      EXPECT_EQ(turned.load(down)->input.hadamard,
                form.with_bases ? hadamard_block_of(104, form.largest_block) : 0);
      const bool is_by_basis = form.with_bases && (options.tied || !form.fold_streams);
      EXPECT_EQ(turned.load(up)->input.hadamard,
                is_by_basis ? hadamard_block_of(72, form.largest_block) : 0);
      EXPECT_EQ(turned.load("model.embed_tokens.weight")->input.hadamard,
                form.with_bases && options.tied ? hadamard_block_of(72, form.largest_block) : 0);
    }
  }
}

TEST(Hadamard, SpreadsWhatSticksOut) {
  ThreadPool pool(2);
  RandomModel model({.seed = 7, .tied = false});
  QuantizedTensor& up = model.tensors().at("model.layers.0.mlp.up_proj.weight");
  std::vector<float> numbers = decode(up);
  for (std::size_t i = 9; i < numbers.size(); i += 72) numbers[i] = 3.0f;  // of deviation 0.12
  up = encode_plain(numbers, *parse_scheme("f32"), up.rows, up.cols);
  const auto graph = trace_model(model);
  ASSERT_TRUE(graph);
  FoldedModel turned(model);
  ASSERT_TRUE(rotate(*graph, {}, turned, pool));
  const std::vector<float> after = decode(*turned.load("model.layers.0.mlp.up_proj.weight"));
  float largest = 0;
  for (const float number : after) largest = std::max(largest, std::fabs(number));
  EXPECT_LT(largest, 1.5f);
}

TEST(Hadamard, DoesNotTurnTwice) {
  ThreadPool pool(2);
  const RandomModel model({.seed = 8, .tied = true});
  const auto graph = trace_model(model);
  ASSERT_TRUE(graph);
  FoldedModel once(model), twice(static_cast<const TensorSource&>(once));
  ASSERT_TRUE(rotate(*graph, {}, once, pool));
  const Status done = rotate(*graph, {}, twice, pool);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message().find("already has a basis (hadamard 8)"), std::string::npos);
}

/// The Hessians and weights of errors are those of the rotated inputs: gptq is no worse off in
/// another basis than rtn, and the tensors keep theirs.
TEST(Hadamard, IsCalibratedInItsBasis) {
  ThreadPool pool(2);
  const RandomModel model({.seed = 9, .biases = false, .tied = true});
  const auto graph = trace_model(model);
  ASSERT_TRUE(graph);
  FoldedModel turned(model);
  ASSERT_TRUE(rotate(*graph, {}, turned, pool));
  const auto error_of = [&](std::string_view recipe) {
    PipelineOptions options;
    options.recipe_of = recipe_where("layers", recipe);
    for (int seed = 0; seed < 12; ++seed)
      options.windows.push_back(tokens_of(model.config(), seed));
    const QuantizedModel result = quantized(turned, options, pool);
    for (const auto& [name, tensor] : result.replaced())
      EXPECT_EQ(tensor.input, turned.input(name)) << name;
    return distance(model, result, pool);
  };
  EXPECT_LT(error_of("gptq:int3.g16"), error_of("rtn:int3.g16"));
}

/// A rotation keeps the energy of every block of inputs and shares it out among them.
TEST(Hadamard, StatisticsAreAboutInputsInTheirBasis) {
  ThreadPool pool(2);
  const RandomModel model({.seed = 11, .tied = true});
  const auto graph = trace_model(model);
  ASSERT_TRUE(graph);
  FoldedModel turned(model);
  ASSERT_TRUE(rotate(*graph, {}, turned, pool));
  const CalibrationWindows windows{tokens_of(model.config(), 1), tokens_of(model.config(), 2)};
  const auto plain = collect_statistics(model, windows, Needs::activations, pool);
  const auto found = collect_statistics(turned, windows, Needs::activations, pool);
  ASSERT_TRUE(plain && found);
  const std::string prefix = "model.layers.1.";
  for (const std::string& name : {prefix + "self_attn.q_proj.weight",
                                  prefix + "mlp.down_proj.weight", std::string(embedding_name)}) {
    SCOPED_TRACE(name);
    const auto block = static_cast<std::size_t>(turned.input(name).hadamard);
    ASSERT_GT(block, 1u);
    const auto &before = plain->find(name)->second.mean_square,
               &after = found->find(name)->second.mean_square;
    float most = 0;  // by which one input changes
    for (std::size_t first = 0; first < before.size(); first += block) {
      float energy_before = 0, energy_after = 0;
      for (std::size_t i = first; i < first + block; ++i) {
        energy_before += before[i];
        energy_after += after[i];
        most = std::max(most, std::fabs(after[i] - before[i]) / before[i]);
      }
      EXPECT_NEAR(energy_after, energy_before, 1e-4f * energy_before);
    }
    EXPECT_GT(most, 0.1f);
  }
}

/// No kernel reads groups of 8, so the numbers are multiplied as f32, in the same basis.
TEST(Hadamard, ReachesSchemesWithoutAKernel) {
  ThreadPool pool(2);
  const RandomModel model({.seed = 12, .tied = true});
  FoldedModel turned(model);
  ASSERT_TRUE(rotate(*trace_model(model), {}, turned, pool));
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  const QuantizedTensor exact = *turned.load(down);
  const std::vector<float> numbers = decode(exact);
  QuantizedTensor stored = *round_to_nearest({numbers.data(), exact.rows, exact.cols}, {},
                                             *parse_scheme("int8.g8"), pool);
  ASSERT_FALSE(pack(stored, pool));
  QuantizedTensor decoded =
      encode_plain(decode(stored), *parse_scheme("f32"), stored.rows, stored.cols);
  stored.input = decoded.input = exact.input;
  QuantizedModel with_stored(turned), with_decoded(turned);
  with_stored.replace(down, std::move(stored));
  with_decoded.replace(down, std::move(decoded));
  EXPECT_EQ(logits_of(with_stored, pool), logits_of(with_decoded, pool));
}

TEST(Transforms, FoldWhatNeedsNoData) {
  ThreadPool pool(2);
  const RandomModel model({.seed = 10});
  const auto with = [&](std::string_view text) {
    auto folded = fold_model(model, *parse_tensor_recipe(text), pool);
    EXPECT_TRUE(folded) << folded.error().message();
    return *std::move(folded);
  };
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  EXPECT_EQ(with("awq:int4.g32"), nullptr);
  EXPECT_EQ(with("hadamard+rtn:int4.g32")->input(down).hadamard, 8);
  EXPECT_EQ(with("hadamard-folded+rtn:int4.g32")->input(down).hadamard, 0);
}

TEST(Transforms, AreThoseOfTheRecipe) {
  const RandomModel model({});
  const auto recipe_of = [](std::string_view) { return std::optional<TensorRecipe>(); };
  for (const auto& [text, n] : {std::pair{"rtn:int4.g32", 0u}, std::pair{"awq:int4.g32", 1u},
                                std::pair{"smoothquant+rtn:int8.channel", 1u}}) {
    const auto steps = block_transforms(model, *parse_tensor_recipe(text), recipe_of);
    ASSERT_TRUE(steps) << steps.error().message();
    EXPECT_EQ(steps->size(), n) << text;
  }
}

}  // namespace
}  // namespace lowbit

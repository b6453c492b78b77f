// SPDX-License-Identifier: Apache-2.0
// Statistics against plain loops in double over a forward pass written out in the test; the
// pipeline's bits against threads and interruptions; that what a stage is rounded on really comes
// from the rounded stages before it.
#include "lowbit/compress/pipeline.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/test_files.h"
#include "lowbit/compress/work_folder.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t n_ctx = 37;  // no multiple of anything

CalibrationWindows random_windows(std::int64_t n_windows, std::int64_t n_vocab) {
  std::mt19937 random(7);
  std::uniform_int_distribution<std::int32_t> any(0, static_cast<std::int32_t>(n_vocab) - 1);
  CalibrationWindows windows(static_cast<std::size_t>(n_windows));
  for (auto& window : windows) {
    for (std::int64_t i = 0; i < n_ctx; ++i) window.push_back(any(random));
  }
  return windows;
}

using Numbers = std::vector<float>;  // row-major

/// The inputs of every matrix, (all tokens, inputs), from the verbs of the backend one by one.
std::map<std::string, Numbers> inputs_by_hand(const TensorSource& source,
                                              const CalibrationWindows& windows, ThreadPool& pool) {
  const auto backend = *make_cpu_backend(pool);
  const ModelWeights model =
      *load_weights(source, *backend, LoadOptions{.activations = Activations::f32});
  const ModelConfig& config = model.config;
  std::map<std::string, Numbers> all;
  const auto capture = [&](const std::string& name, const Tensor& x) {
    Numbers numbers(static_cast<std::size_t>(x.rows * x.cols));
    backend->download(x, numbers);
    all[name].insert(all[name].end(), numbers.begin(), numbers.end());
  };
  for (const auto& window : windows) {
    KvCache cache = *KvCache::create(
        *backend, {KvKind::f32, config.n_layers, config.n_kv_heads, config.head_dim}, n_ctx);
    KvSequence kv;
    EXPECT_TRUE(cache.grow(kv, n_ctx));
    const StepSequence step{window, 0, &kv, 0};
    LayerPass pass(*backend, config, n_ctx);
    pass.begin({&step, 1});
    backend->embed(*model.embedding, window, pass.x());
    for (std::size_t i = 0; i < model.layers.size(); ++i) {
      const LayerWeights& layer = model.layers[i];
      const auto at = static_cast<std::int64_t>(i);
      const auto name = [&](LayerStage stage) { return stage_matrices(at, stage).front(); };
      pass.norm_x(*layer.attention_norm);
      capture(name(LayerStage::qkv), pass.normed());
      pass.project(layer, at, {&step, 1}, cache);
      pass.mix(cache);
      capture(name(LayerStage::o), pass.mixed());
      pass.add_attention(layer);
      pass.norm_x(*layer.feed_forward_norm);
      capture(name(LayerStage::gate_up), pass.normed());
      pass.gate(layer);
      capture(name(LayerStage::down), pass.gated());
      pass.add_feed_forward(layer);
    }
    pass.norm_x(*model.final_norm);
    capture(std::string(head_matrix(config)), pass.normed());
  }
  return all;
}

/// Sums of n numbers, each rounded: n roundings of a sum below the sum of magnitudes.
void expect_statistics(const TensorStats& stats, const Numbers& x, std::int64_t n_inputs) {
  const auto n_tokens = static_cast<std::int64_t>(x.size()) / n_inputs;
  ASSERT_EQ(stats.n_tokens, n_tokens);
  const auto n = static_cast<double>(n_tokens);
  const double bound = (n + 4) * 0x1p-24;
  std::int64_t n_outliers = 0;
  for (const float a : x) n_outliers += std::fabs(a) >= 6.0f ? 1 : 0;
  EXPECT_EQ(stats.n_outliers, n_outliers);
  for (std::int64_t i = 0; i < n_inputs; ++i) {
    double square = 0, magnitude = 0, largest = 0;
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      const auto a = static_cast<double>(x[static_cast<std::size_t>(t * n_inputs + i)]);
      square += a * a;
      magnitude += std::fabs(a);
      largest = std::max(largest, std::fabs(a));
    }
    const auto at = static_cast<std::size_t>(i);
    EXPECT_NEAR(stats.mean_square[at], square / n, bound * square / n);
    EXPECT_NEAR(stats.mean_abs[at], magnitude / n, bound * magnitude / n);
    EXPECT_EQ(static_cast<double>(stats.max_abs[at]), largest);
    if (stats.hessian.empty()) continue;
    for (std::int64_t j = 0; j < n_inputs; ++j) {
      double sum = 0, magnitudes = 0;
      for (std::int64_t t = 0; t < n_tokens; ++t) {
        const double product = static_cast<double>(x[static_cast<std::size_t>(t * n_inputs + i)]) *
                               static_cast<double>(x[static_cast<std::size_t>(t * n_inputs + j)]);
        sum += product;
        magnitudes += std::fabs(product);
      }
      EXPECT_NEAR(stats.hessian[static_cast<std::size_t>(i * n_inputs + j)], sum / n,
                  bound * magnitudes / n);
    }
  }
}

TEST(Statistics, AreThoseOfTheInputs) {
  ThreadPool pool(2);
  for (const bool tied : {false, true}) {
    const RandomModel model({.seed = 3, .tied = tied});
    const auto windows = random_windows(3, model.config().n_vocab);
    const auto expected = inputs_by_hand(model, windows, pool);
    const auto stats = collect_statistics(model, windows, Needs::hessian, pool);
    ASSERT_TRUE(stats) << stats.error().message();
    // 7 matrices a layer and the head; those that share an input have the same numbers.
    EXPECT_EQ(stats->size(), 7u * 2 + 1);
    for (std::int64_t i = 0; i < model.config().n_layers; ++i) {
      for (const LayerStage stage : layer_stages) {
        const auto names = stage_matrices(i, stage);
        for (const std::string& name : names) {
          SCOPED_TRACE(name);
          expect_statistics(stats->at(name), expected.at(names.front()),
                            stage_inputs(model.config(), stage));
        }
      }
    }
    const std::string head(head_matrix(model.config()));
    EXPECT_EQ(head, tied ? "model.embed_tokens.weight" : "lm_head.weight");
    expect_statistics(stats->at(head), expected.at(head), model.config().d_model);
  }
}

TEST(Statistics, OfActivationsHaveNoHessian) {
  ThreadPool pool(1);
  const RandomModel model({.seed = 3});
  const auto stats = collect_statistics(model, random_windows(1, model.config().n_vocab),
                                        Needs::activations, pool);
  ASSERT_TRUE(stats);
  for (const auto& [name, each] : *stats) {
    EXPECT_TRUE(each.hessian.empty()) << name;
    EXPECT_FALSE(each.mean_square.empty()) << name;
  }
}

TEST(Statistics, RefuseBadWindows) {
  ThreadPool pool(1);
  RandomModel model({.seed = 3});
  const auto message = [&](const CalibrationWindows& windows) {
    const auto stats = collect_statistics(model, windows, Needs::activations, pool);
    return stats ? std::string("accepted") : stats.error().message();
  };
  EXPECT_EQ(message({}), "there is no calibration text");
  EXPECT_EQ(message({std::vector<std::int32_t>(401, 1)}),
            "a calibration window of 401 tokens is beyond the model's context of 400; use a "
            "smaller --calibration-ctx");
  EXPECT_EQ(message({{1, 2}, {3}}), "calibration windows differ in length");
  EXPECT_EQ(message({{1, 83}}), "the calibration text has token 83, the model only 83");
}

TEST(Statistics, NameTheMatrixWhoseInputsAreNotFinite) {
  ThreadPool pool(1);
  RandomModel model({.seed = 3, .biases = false});
  // Products of 1e20 with themselves are infinite.
  const auto scale = [](QuantizedTensor& tensor, float factor) {
    auto numbers = decode(tensor);
    for (float& number : numbers) number *= factor;
    tensor = encode_plain(numbers, tensor.scheme, tensor.rows, tensor.cols);
  };
  scale(model.tensors().at("model.layers.1.mlp.gate_proj.weight"), 1e20f);
  scale(model.tensors().at("model.layers.1.mlp.up_proj.weight"), 1e20f);
  const auto stats = collect_statistics(model, random_windows(1, model.config().n_vocab),
                                        Needs::activations, pool);
  ASSERT_FALSE(stats);
  EXPECT_TRUE(stats.error().message().starts_with("model.layers.1.mlp.down_proj.weight: input "))
      << stats.error().message();
}

PipelineOptions options_for(const RandomModel& model, std::string_view recipe,
                            std::int64_t n_windows = 3) {
  PipelineOptions options;
  options.recipe_of = [recipe = *parse_tensor_recipe(recipe)](std::string_view) { return recipe; };
  options.windows = random_windows(n_windows, model.config().n_vocab);
  return options;
}

using Rounded = std::map<std::string, Numbers>;

Rounded quantized(const RandomModel& model, const PipelineOptions& options, int n_threads) {
  ThreadPool pool(n_threads);
  Rounded all;
  const auto sink = [&](const std::string& name, QuantizedTensor tensor) -> Status {
    EXPECT_TRUE(all.emplace(name, decode(tensor)).second) << name << " twice";
    return ok();
  };
  const auto report = quantize_blocks(model, options, sink, pool);
  EXPECT_TRUE(report) << report.error().message();
  return all;
}

TEST(Pipeline, GivesEveryMatrixAndTheSameBitsOnAnyTeam) {
  for (const bool tied : {false, true}) {
    const RandomModel model({.seed = 5, .tied = tied});
    // Groups of 8 have no kernel, which is no reason not to make them.
    const auto options = options_for(model, tied ? "rtn:int4.g8" : "rtn:int4.g16");
    const Rounded one = quantized(model, options, 1);
    EXPECT_EQ(one.size(), 7u * 2 + (tied ? 1 : 2));
    for (const int n_threads : {2, 3}) EXPECT_EQ(quantized(model, options, n_threads), one);
  }
}

/// The inputs of a matrix, as its rounder sees them: what a rounder that keeps no numbers would.
TEST(Pipeline, RoundsAStageOnWhatTheRoundedStagesGive) {
  ThreadPool pool(1);
  const RandomModel model({.seed = 5});
  const auto options = options_for(model, "rtn:int3.g16");
  QuantizedModel rounded(model);
  const auto sink = [&](const std::string& name, QuantizedTensor tensor) -> Status {
    rounded.replace(name, std::move(tensor));
    return ok();
  };
  ASSERT_TRUE(quantize_blocks(model, options, sink, pool));
  // In the rounded model each matrix reads what the pipeline rounded it on: rounding the source's
  // matrix on the statistics of the rounded model gives the same bits, on the source's own not.
  const auto behind = *collect_statistics(rounded, options.windows, Needs::activations, pool);
  const auto before = *collect_statistics(model, options.windows, Needs::activations, pool);
  std::int64_t n_other = 0;
  for (const auto& [name, tensor] : rounded.replaced()) {
    if (name == embedding_name) continue;
    const auto recipe = *options.recipe_of(name);
    const QuantizedTensor w = *model.load(name);
    const Numbers numbers = decode(w);
    const auto round_on = [&](const ModelStats& stats) {
      return decode(
          recipe.rounder
              ->round({numbers.data(), w.rows, w.cols}, stats.at(name).view(), recipe.scheme, pool)
              ->tensor);
    };
    EXPECT_EQ(decode(tensor), round_on(behind)) << name;
    n_other += decode(tensor) != round_on(before) ? 1 : 0;
  }
  EXPECT_GT(n_other, 10);
}

/// A place for a folder, which is not there yet.
class Folder {
 public:
  const std::string& path() const { return path_; }

 private:
  const TemporaryFolder parent_;
  const std::string path_ = (parent_.path() / "work").string();
};

TEST(Pipeline, GoesOnAfterAnInterruptionWithTheSameBits) {
  const RandomModel model({.seed = 6, .tied = true});
  auto options = options_for(model, "rtn:int4.g16");
  const Rounded whole = quantized(model, options, 2);
  ThreadPool pool(2);
  const Folder folder;
  const auto unused = [](const std::string&, QuantizedTensor) -> Status {
    ADD_FAILURE();
    return ok();
  };
  std::int64_t n_steps = 0, n_resumed = 0;
  // Each run gets a little further than a block.
  for (int n_runs = 0; n_runs < 20; ++n_runs) {
    auto work = WorkFolder::open(folder.path(), "key", pool);
    ASSERT_TRUE(work) << work.error().message();
    options.work = &*work;
    n_steps = 0;
    options.progress = [&](std::string_view, std::int64_t, std::int64_t) { return ++n_steps < 18; };
    const auto report = quantize_blocks(model, options, unused, pool);
    if (!report) {
      EXPECT_TRUE(report.error().message().ends_with("interrupted")) << report.error().message();
      continue;
    }
    n_resumed = report->n_resumed_blocks;
    Rounded found;
    for (const auto& [name, numbers] : whole) {
      ASSERT_TRUE(work->has(name)) << name;
      found[name] = decode(*work->load(name, pool));
    }
    EXPECT_EQ(found, whole);
    ASSERT_TRUE(work->remove());
    EXPECT_FALSE(fs::exists(folder.path()));
    break;
  }
  EXPECT_GT(n_resumed, 0);
}

TEST(Pipeline, StartsAnewForAnotherKeyOrDamagedStates) {
  const RandomModel model({.seed = 6, .tied = true});
  auto options = options_for(model, "rtn:int4.g16");
  ThreadPool pool(2);
  const Folder folder;
  const auto finished_for = [&](const char* key) {
    return WorkFolder::open(folder.path(), key, pool)->n_finished();
  };
  {
    auto work = WorkFolder::open(folder.path(), "key", pool);
    options.work = &*work;
    std::int64_t n_steps = 0;
    options.progress = [&](std::string_view, std::int64_t, std::int64_t) { return ++n_steps < 22; };
    ASSERT_FALSE(quantize_blocks(model, options, {}, pool));
  }
  EXPECT_EQ(finished_for("key"), 2);
  {
    std::FILE* file = std::fopen((folder.path() + "/hidden-1").c_str(), "r+");
    ASSERT_NE(file, nullptr);
    std::fputc('x', file);
    std::fclose(file);
  }
  EXPECT_EQ(finished_for("key"), 0);
  EXPECT_EQ(finished_for("other"), 0);
}

TEST(Pipeline, TouchesNoFolderOfSomeoneElse) {
  ThreadPool pool(1);
  const Folder folder;
  fs::create_directory(folder.path());
  std::fclose(std::fopen((folder.path() + "/thesis.tex").c_str(), "w"));
  const auto work = WorkFolder::open(folder.path(), "key", pool);
  ASSERT_FALSE(work);
  EXPECT_NE(work.error().message().find("thesis.tex"), std::string::npos);
}

TEST(Pipeline, NamesANumberThatIsNotFinite) {
  ThreadPool pool(2);
  RandomModel model({.seed = 5});
  QuantizedTensor& tensor = model.tensors().at("model.layers.1.self_attn.v_proj.weight");
  auto numbers = decode(tensor);
  numbers[static_cast<std::size_t>(7 * tensor.cols + 3)] = std::nanf("");
  tensor = encode_plain(numbers, tensor.scheme, tensor.rows, tensor.cols);
  const auto report = quantize_blocks(
      model, options_for(model, "rtn:int4.g16"),
      [](const std::string&, QuantizedTensor) { return Status(ok()); }, pool);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message(),
            "model.layers.1.self_attn.v_proj.weight: the number in row 7, column 3 is NaN; the "
            "file is damaged");
}

TEST(Pipeline, SaysWhatMemoryItNeeds) {
  ThreadPool pool(1);
  const RandomModel model({.seed = 5});
  auto options = options_for(model, "rtn:int4.g16");
  options.memory_bytes = 1 << 20;
  const auto report = quantize_blocks(model, options, {}, pool);
  ASSERT_FALSE(report);
  EXPECT_NE(report.error().message().find("use --memory "), std::string::npos)
      << report.error().message();
}

}  // namespace
}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
// The probe against the plain way: the model with the matrix replaced, loaded and run whole.
#include "lowbit/compress/logit_probe.h"

#include <gtest/gtest.h>

#include "lowbit/measure/log_softmax.h"
#include "lowbit/runtime/loaded_model.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

constexpr std::int64_t n_ctx = 40, n_positions = 7;

CalibrationWindows some_windows() {
  CalibrationWindows windows(3);
  std::int32_t next = 5;
  for (auto& window : windows) {
    for (std::int64_t i = 0; i < n_ctx; ++i) window.push_back(next = (next * 31 + 7) % 83);
  }
  return windows;
}

/// Logits of the last half of a window, (n_ctx / 2, n_vocab).
std::vector<float> logits_of(const TensorSource& tensors, const std::vector<std::int32_t>& window,
                             ThreadPool& pool) {
  auto model = LoadedModel::load(tensors, exact_recipe(), pool, {});
  EXPECT_TRUE(model);
  auto cache = KvCache::create((*model)->backend(), (*model)->kv_shape(), n_ctx);
  EXPECT_TRUE(cache);
  KvSequence sequence;
  EXPECT_TRUE(cache->grow(sequence, n_ctx));
  Forward forward((*model)->backend(), (*model)->weights(), n_ctx);
  const StepSequence step{window, 0, &sequence, n_ctx / 2};
  const MatrixView logits = forward.run({&step, 1}, *cache);
  return {logits.data, logits.data + logits.rows * logits.cols};
}

double plain_divergence(const TensorSource& teacher, const TensorSource& student,
                        ThreadPool& pool) {
  double sum = 0;
  const auto n_vocab = static_cast<std::size_t>(teacher.config().n_vocab);
  const auto windows = some_windows();
  for (const auto& window : windows) {
    const auto truth = logits_of(teacher, window, pool), said = logits_of(student, window, pool);
    for (std::int64_t i = 0; i < n_positions; ++i) {
      const auto at = static_cast<std::size_t>(i * (n_ctx / 2) / n_positions) * n_vocab;
      sum += compare_logits(std::span(truth).subspan(at, n_vocab),
                            std::span(said).subspan(at, n_vocab), 0)
                 .kld;
    }
  }
  return sum / static_cast<double>(windows.size() * n_positions);
}

class LogitProbeTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto made = LogitProbe::create(teacher_, some_windows(), pool_, {.n_positions = n_positions});
    ASSERT_TRUE(made) << made.error().message();
    probe_ = *std::move(made);
  }
  /// Another model's matrix of that name.
  QuantizedTensor other(const std::string& name) const { return other_.tensors_of(name); }

  struct Other : RandomModel {
    using RandomModel::RandomModel;
    QuantizedTensor tensors_of(const std::string& name) const { return load(name)->clone(); }
  };
  ThreadPool pool_{2};
  RandomModel teacher_{{.seed = 1, .tied = GetParam()}};
  Other other_{{.seed = 2, .tied = GetParam()}};
  std::unique_ptr<LogitProbe> probe_;
};

TEST_P(LogitProbeTest, NothingReplacedIsNoDivergence) {
  const auto kld = probe_->divergence({});
  ASSERT_TRUE(kld);
  EXPECT_EQ(*kld, 0);
}

TEST_P(LogitProbeTest, SaysWhatTheWholeModelSays) {
  std::vector<std::string> names = {"model.embed_tokens.weight",
                                    "model.layers.0.self_attn.q_proj.weight",
                                    "model.layers.0.self_attn.v_proj.weight",
                                    "model.layers.0.mlp.down_proj.weight",
                                    "model.layers.1.self_attn.o_proj.weight",
                                    "model.layers.1.mlp.gate_proj.weight"};
  if (!GetParam()) names.push_back("lm_head.weight");
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const QuantizedTensor replacement = other(name);
    const LogitProbe::Replacement replaced{name, &replacement};
    const auto kld = probe_->divergence({&replaced, 1});
    ASSERT_TRUE(kld) << kld.error().message();
    RandomModel student({.seed = 1, .tied = GetParam()});
    student.tensors()[name] = other(name);
    // Logits are the same bits; p is kept in f32, so a term is off by at most 2^-24 of itself.
    const double plain = plain_divergence(teacher_, student, pool_);
    EXPECT_GT(plain, 1e-4);
    EXPECT_NEAR(*kld, plain, 1e-5 * plain + 1e-7);
  }
  EXPECT_EQ(*probe_->divergence({}), 0) << "the teacher is back";
}

TEST_P(LogitProbeTest, SeveralMatricesAtOnce) {
  const std::string a = "model.layers.1.mlp.up_proj.weight",
                    b = "model.layers.0.self_attn.k_proj.weight";
  const QuantizedTensor first = other(a), second = other(b);
  const std::array replaced{LogitProbe::Replacement{a, &first},
                            LogitProbe::Replacement{b, &second}};
  const auto kld = probe_->divergence(replaced);
  ASSERT_TRUE(kld);
  RandomModel student({.seed = 1, .tied = GetParam()});
  student.tensors()[a] = other(a);
  student.tensors()[b] = other(b);
  const double plain = plain_divergence(teacher_, student, pool_);
  EXPECT_NEAR(*kld, plain, 1e-5 * plain + 1e-7);
}

TEST_P(LogitProbeTest, AnUnknownNameIsAnErrorAndChangesNothing) {
  const QuantizedTensor tensor = other("model.layers.0.mlp.down_proj.weight");
  const std::array replaced{LogitProbe::Replacement{"model.layers.0.mlp.down_proj.weight", &tensor},
                            LogitProbe::Replacement{"nonsense", &tensor}};
  const auto kld = probe_->divergence(replaced);
  ASSERT_FALSE(kld);
  EXPECT_NE(kld.error().message().find("nonsense"), std::string::npos);
  EXPECT_EQ(*probe_->divergence({}), 0);
}

INSTANTIATE_TEST_SUITE_P(Heads, LogitProbeTest, testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Tied") : std::string("Untied");
});

TEST(LogitProbe, NoTextIsAnError) {
  ThreadPool pool(1);
  const RandomModel model({});
  EXPECT_FALSE(LogitProbe::create(model, {}, pool));
}

}  // namespace
}  // namespace lowbit

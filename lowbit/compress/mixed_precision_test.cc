// SPDX-License-Identifier: Apache-2.0
// From groups and sensitivities to rules that a file is written by, on the small golden models.
#include "lowbit/compress/mixed_precision.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "lowbit/compress/kld_target.h"
#include "lowbit/compress/mix_trials.h"
#include "lowbit/compress/quantize.h"
#include "lowbit/compress/sensitivity_cache.h"

namespace lowbit {
namespace {

const std::string golden = std::string(LOWBIT_SOURCE_DIR) + "/tests/golden/models/";

/// A folder that goes when the test does.
struct TemporaryFolder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("lowbit_mix_test_" + std::to_string(::getpid()));
  TemporaryFolder() { std::filesystem::create_directories(path); }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string operator/(const char* name) const { return (path / name).string(); }
};

CalibrationWindows some_windows() {
  CalibrationWindows windows(2);
  for (auto& window : windows) {
    window.resize(24);
    std::iota(window.begin(), window.end(), &window == &windows[0] ? 11 : 140);
  }
  return windows;
}

MixTarget bits(double wanted) {
  MixTarget target;
  target.bits_per_weight = wanted;
  return target;
}
MixTarget bytes(std::int64_t wanted) {
  MixTarget target;
  target.n_bytes = wanted;
  return target;
}

class MixTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = ModelFile::open(golden + "llama-linear/model.gguf");
    ASSERT_TRUE(opened) << opened.error().message();
    file_.emplace(*std::move(opened));
    candidates_ = *parse_candidates("int3.g32,int4.g32,int6.g32,int8.g32");
  }
  std::vector<GroupSensitivity> measure(Estimator estimator) {
    auto measured = measure_sensitivity(
        *file_, {.candidates = candidates_, .estimator = estimator, .windows = some_windows()},
        pool_);
    EXPECT_TRUE(measured) << (measured ? "" : measured.error().message());
    return *std::move(measured);
  }
  MixOptions for_target(MixTarget target, const char* output = "model/") {
    return {.target = target,
            .output = folder_ / output,
            .rounder = *rounder_named("rtn"),
            .rules = {}};
  }

  TemporaryFolder folder_;
  ThreadPool pool_{2};
  std::optional<ModelFile> file_;
  std::vector<Scheme> candidates_;
};

TEST_F(MixTest, GroupsHoldEveryMatrixOnceAndTogetherWhatIsMultipliedTogether) {
  const auto groups = tensor_groups(*file_);
  std::set<std::string> seen;
  std::size_t n_of_three = 0, n_of_two = 0;
  for (const TensorGroup& group : groups) {
    n_of_three += group.tensors.size() == 3 ? 1 : 0;
    n_of_two += group.tensors.size() == 2 ? 1 : 0;
    for (const ModelTensor* tensor : group.tensors) EXPECT_TRUE(seen.insert(tensor->name).second);
  }
  std::size_t n_matrices = 0;
  for (const ModelTensor& tensor : file_->tensors()) n_matrices += tensor.is_matrix() ? 1 : 0;
  EXPECT_EQ(seen.size(), n_matrices);
  EXPECT_EQ(n_of_three, 2u);  // q k v of two layers
  EXPECT_EQ(n_of_two, 2u);    // gate up
}

TEST_F(MixTest, EveryEstimatorSaysThatMoreBitsLoseLess) {
  for (const Estimator estimator : estimator_list) {
    SCOPED_TRACE(name_of(estimator));
    for (const GroupSensitivity& entry : measure(estimator)) {
      SCOPED_TRACE(entry.group.name);
      ASSERT_EQ(entry.losses.size(), candidates_.size());
      EXPECT_GT(entry.losses[0], entry.losses[2]);
      EXPECT_GT(entry.losses[1], entry.losses[3]);
    }
  }
}

TEST_F(MixTest, BitsPerWeightAreKeptAndWritten) {
  const auto sensitivities = measure(Estimator::probe);
  for (const double target : {3.6, 4.5, 6.0}) {
    SCOPED_TRACE(target);
    const auto mix = choose_mix(*file_, candidates_, sensitivities, for_target(bits(target)));
    ASSERT_TRUE(mix) << mix.error().message();
    EXPECT_LE(mix->bits_per_weight, target);
    EXPECT_GT(mix->bits_per_weight, target - 0.35);  // groups are large in so small a model
    QuantizeOptions options;
    options.rules = mix->rules;
    options.output = folder_ / "model/";
    const auto report = quantize_model(*file_, options, pool_);
    ASSERT_TRUE(report) << report.error().message();
    EXPECT_NEAR(report->bits_per_weight, mix->bits_per_weight, 1e-9);
    EXPECT_EQ(report->n_bytes, mix->n_bytes);
  }
}

TEST_F(MixTest, FilesAreNeverLargerThanTheTarget) {
  candidates_ = *parse_candidates("q4_0,q5_0,q8_0,f16");
  const auto sensitivities = measure(Estimator::relative);
  for (const std::int64_t target : {60'000, 70'000, 80'000}) {
    SCOPED_TRACE(target);
    const auto mix =
        choose_mix(*file_, candidates_, sensitivities, for_target(bytes(target), "model.gguf"));
    if (!mix) {  // it says what can be
      EXPECT_NE(mix.error().message().find("cannot be reached"), std::string::npos);
      continue;
    }
    EXPECT_LE(mix->n_bytes, target);
    QuantizeOptions options;
    options.rules = mix->rules;
    options.output = folder_ / "model.gguf";
    const auto report = quantize_model(*file_, options, pool_);
    ASSERT_TRUE(report) << report.error().message();
    EXPECT_EQ(static_cast<std::int64_t>(std::filesystem::file_size(options.output)), mix->n_bytes);
  }
}

TEST_F(MixTest, MatricesOfAGroupShareTheirScheme) {
  const auto mix =
      choose_mix(*file_, candidates_, measure(Estimator::probe), for_target(bits(4.5)));
  ASSERT_TRUE(mix);
  for (const TensorGroup& group : tensor_groups(*file_)) {
    const Scheme& first = rule_for(mix->rules, *group.tensors[0])->recipe->scheme;
    for (const ModelTensor* tensor : group.tensors)
      EXPECT_TRUE(rule_for(mix->rules, *tensor)->recipe->scheme == first) << tensor->name;
  }
}

TEST_F(MixTest, RulesComeFirstAndCountInTheBudget) {
  auto options = for_target(bits(5));
  options.rules = {*parse_rule("*embed_tokens*=int8.g32"), *parse_rule("*.0.mlp.gate*=keep")};
  const auto mix = choose_mix(*file_, candidates_, measure(Estimator::relative), options);
  if (mix) {
    EXPECT_LE(mix->bits_per_weight, 5);
    const ModelTensor* embedding = file_->find("model.embed_tokens.weight");
    EXPECT_EQ(to_string(rule_for(mix->rules, *embedding)->recipe->scheme), "int8.g32");
  } else {
    EXPECT_NE(mix.error().message().find("cannot be reached"), std::string::npos);
  }
  options.target.bits_per_weight = 9;
  const auto larger = choose_mix(*file_, candidates_, measure(Estimator::relative), options);
  ASSERT_TRUE(larger) << larger.error().message();
  std::size_t n_fixed = 0;
  for (const MixRow& row : larger->rows) n_fixed += row.is_chosen ? 0 : 1;
  EXPECT_EQ(n_fixed, 2u);
}

TEST_F(MixTest, ATargetBelowTheLeastSaysTheLeast) {
  const auto sensitivities = measure(Estimator::relative);
  const auto mix = choose_mix(*file_, candidates_, sensitivities, for_target(bits(2)));
  ASSERT_FALSE(mix);
  EXPECT_NE(mix.error().message().find("3.5"), std::string::npos) << mix.error().message();
  const auto file = choose_mix(*file_, candidates_, sensitivities, for_target(bytes(100)));
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message().find("bits per weight"), std::string::npos);
}

TEST_F(MixTest, CandidatesThatFitNowhereAreAnError) {
  candidates_ = *parse_candidates("q4_k");  // rows of 32
  const auto mix = choose_mix(*file_, candidates_, measure(Estimator::relative),
                              for_target(bits(5), "model.gguf"));
  ASSERT_FALSE(mix);
  EXPECT_NE(mix.error().message().find("no candidate fits"), std::string::npos);
}

TEST_F(MixTest, TheMeasuredDivergenceStaysUnderItsLimit) {
  const auto sensitivities = measure(Estimator::probe);
  for (const double limit : {1e-4, 1e-5}) {
    SCOPED_TRACE(limit);
    const auto mix = choose_mix_under_kld(
        *file_, candidates_, sensitivities, for_target({}),
        {.most_kld = limit, .stats = nullptr, .windows = some_windows()}, pool_);
    if (!mix) {
      EXPECT_NE(mix.error().message().find("KL divergence"), std::string::npos);
      continue;
    }
    ASSERT_TRUE(mix->measured_kld);
    EXPECT_LE(*mix->measured_kld, limit);
  }
}

/// A matrix that is stored in a basis is tried, counted and written in it. 8 bits lose little here;
/// a matrix in the wrong basis is another matrix.
TEST_F(MixTest, MatricesStayInTheirBasis) {
  QuantizeOptions rotation;
  rotation.recipe = *parse_tensor_recipe("hadamard+rtn:f32");
  rotation.output = folder_ / "turned/";
  ASSERT_TRUE(quantize_model(*file_, rotation, pool_));
  auto turned = ModelFile::open(rotation.output);
  ASSERT_TRUE(turned) << turned.error().message();
  file_.emplace(*std::move(turned));
  const auto sensitivities = measure(Estimator::measured);
  for (const GroupSensitivity& entry : sensitivities) {
    EXPECT_LT(entry.losses[3], entry.losses[0] / 8) << entry.group.name;
  }
  const auto mix = choose_mix(*file_, candidates_, sensitivities, for_target(bits(5)));
  ASSERT_TRUE(mix) << mix.error().message();
  QuantizeOptions options;
  options.rules = mix->rules;
  options.output = folder_ / "model/";
  const auto report = quantize_model(*file_, options, pool_);
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_EQ(report->n_bytes, mix->n_bytes);
}

TEST_F(MixTest, SensitivitiesAreKeptForTheSecondTarget) {
  std::filesystem::copy(golden + "llama-linear/model.gguf", folder_ / "model.gguf");
  const auto file = ModelFile::open(folder_ / "model.gguf");
  ASSERT_TRUE(file);
  SensitivityOptions options{.candidates = candidates_, .estimator = Estimator::relative};
  const std::string key = sensitivity_key(*file, options, pool_);
  EXPECT_FALSE(cached_sensitivity(*file, key, candidates_.size()));
  const auto measured = measure_sensitivity(*file, options, pool_);
  ASSERT_TRUE(measured);
  ASSERT_TRUE(keep_sensitivity(*file, key, *measured));
  const auto cached = cached_sensitivity(*file, key, candidates_.size());
  ASSERT_TRUE(cached);
  ASSERT_EQ(cached->size(), measured->size());
  for (std::size_t i = 0; i < cached->size(); ++i) {
    EXPECT_EQ((*cached)[i].group.name, (*measured)[i].group.name);
    EXPECT_EQ((*cached)[i].losses, (*measured)[i].losses);
  }
  options.windows = some_windows();
  EXPECT_FALSE(cached_sensitivity(*file, sensitivity_key(*file, options, pool_), 4));
}

TEST(MixWords, SizesAndBits) {
  EXPECT_EQ(*parse_size("90MB"), 90'000'000);
  EXPECT_EQ(*parse_size("1.5 GiB"), std::int64_t{3} << 29);
  EXPECT_EQ(*parse_size("1234"), 1234);
  EXPECT_EQ(*parse_bits_per_weight("4.25"), 4.25);
  for (const char* text : {"", "90", "MB", "-3MB", "90XB", "1e99GB", "nan", "inf"}) {
    if (std::string_view(text) == "90") continue;  // bytes
    EXPECT_FALSE(parse_size(text)) << text;
  }
  for (const char* text : {"", "x", "0", "-1", "4.25bpw", "nan"})
    EXPECT_FALSE(parse_bits_per_weight(text)) << text;
  EXPECT_FALSE(parse_candidates("q4_0,,q8_0"));
  EXPECT_FALSE(parse_candidates(""));
}

TEST(Correlation, KnownValues) {
  const std::vector<double> up{1, 2, 3, 4}, bent{1, 2, 3, 40}, down{4, 3, 2, 1}, flat{1, 1, 1, 1};
  EXPECT_DOUBLE_EQ(correlation(up, up), 1);
  EXPECT_DOUBLE_EQ(rank_correlation(up, bent), 1);
  EXPECT_LT(correlation(up, bent), 0.9);
  EXPECT_DOUBLE_EQ(rank_correlation(bent, down), -1);
  EXPECT_EQ(correlation(up, flat), 0);
  const std::vector<double> tied{1, 2, 2, 3};
  EXPECT_NEAR(rank_correlation(up, tied), 0.9486832980505138, 1e-12);
}

}  // namespace
}  // namespace lowbit

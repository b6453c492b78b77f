// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/imatrix_statistics.h"

#include <gtest/gtest.h>

namespace lowbit {
namespace {

Result<ModelFile> small_model() {
  return ModelFile::open(LOWBIT_SOURCE_DIR "/tests/golden/models/qwen2");
}

/// Statistics of every matrix: E[x_j^2] = j + 1 over 1024 tokens.
ModelStats counted(const ModelFile& model) {
  ModelStats statistics;
  for (const ModelTensor& tensor : model.tensors()) {
    if (!tensor.is_matrix()) continue;
    TensorStats& stats = statistics[tensor.name];
    stats.n_tokens = 1024;
    for (std::int64_t j = 0; j < tensor.cols(); ++j) {
      stats.mean_square.push_back(static_cast<float>(j + 1));
    }
  }
  return statistics;
}

TEST(ImatrixStatistics, GoThereAndBack) {
  const auto model = small_model();
  ASSERT_TRUE(model) << model.error().message();
  const ModelStats statistics = counted(*model);
  const Imatrix imatrix = imatrix_of(statistics, 512, {"text"});
  EXPECT_EQ(imatrix.n_chunks, 2);
  EXPECT_TRUE(imatrix.entries.contains("blk.0.attn_q.weight"));
  EXPECT_EQ(imatrix.entries.at("blk.0.attn_q.weight").sum_square[2], 3 * 1024);
  const auto back = statistics_of(imatrix, *model);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_TRUE(back->missing.empty());
  ASSERT_EQ(back->statistics.size(), statistics.size());
  for (const auto& [name, stats] : statistics) {
    EXPECT_EQ(back->statistics.at(name).mean_square, stats.mean_square) << name;
    EXPECT_EQ(back->statistics.at(name).n_tokens, stats.n_tokens);
  }
}

TEST(ImatrixStatistics, NamesWhatIsMissing) {
  const auto model = small_model();
  ASSERT_TRUE(model);
  Imatrix imatrix = imatrix_of(counted(*model), 512, {});
  imatrix.entries.erase("token_embd.weight");  // as llama-imatrix leaves it out
  imatrix.entries.erase("blk.1.ffn_up.weight");
  const auto statistics = statistics_of(imatrix, *model);
  ASSERT_TRUE(statistics);
  EXPECT_EQ(statistics->missing, (std::vector<std::string>{"model.layers.1.mlp.up_proj.weight"}));
}

TEST(ImatrixStatistics, RefuseAnotherModel) {
  const auto model = small_model();
  ASSERT_TRUE(model);
  Imatrix imatrix = imatrix_of(counted(*model), 512, {});
  imatrix.entries.at("blk.0.attn_q.weight").sum_square.pop_back();
  const auto shorter = statistics_of(imatrix, *model);
  ASSERT_FALSE(shorter);
  EXPECT_NE(shorter.error().message().find("entry blk.0.attn_q.weight"), std::string::npos);
  Imatrix other;
  other.entries["blk.0.something.weight"] = {{1.0f}, {1}};
  const auto nothing = statistics_of(other, *model);
  ASSERT_FALSE(nothing);
  EXPECT_NE(nothing.error().message().find("another model"), std::string::npos);
}

}  // namespace
}  // namespace lowbit

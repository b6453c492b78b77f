// SPDX-License-Identifier: Apache-2.0
// The forward pass against transformers: tests/golden/make_models.py, which also shows that every
// feature of a model moves the logits by far more than the error allowed here.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/isa.h"
#include "lowbit/runtime/forward.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct Golden {
  std::vector<std::int32_t> tokens;
  std::vector<float> logits;  // (tokens, n_vocab)
  std::int64_t n_vocab = 0;
  double range = 0;
};

Golden read_golden(const fs::path& folder) {
  Golden golden;
  std::ifstream text(folder / "golden.json");
  const json source = json::parse(text);
  golden.tokens = source["tokens"].get<std::vector<std::int32_t>>();
  golden.n_vocab = source["logits"]["shape"][1].get<std::int64_t>();
  golden.range = source["logits"]["range"].get<double>();
  golden.logits.resize(golden.tokens.size() * static_cast<std::size_t>(golden.n_vocab));
  std::ifstream bytes(folder / source["logits"]["file"].get<std::string>(), std::ios::binary);
  bytes.read(reinterpret_cast<char*>(golden.logits.data()),
             static_cast<std::streamsize>(golden.logits.size() * sizeof(float)));
  EXPECT_TRUE(bytes.good());
  return golden;
}

void expect_logits(const std::string& path, const Golden& golden) {
  SCOPED_TRACE(path);
  ThreadPool pool(1);
  auto file = ModelFile::open(path);
  ASSERT_TRUE(file) << file.error().message();
  auto model = LoadedModel::load(*file, exact_recipe(), pool, {});
  ASSERT_TRUE(model) << model.error().message();
  const auto n_tokens = static_cast<std::int64_t>(golden.tokens.size());
  auto cache = KvCache::create((*model)->backend(), (*model)->kv_shape(), n_tokens);
  ASSERT_TRUE(cache) << cache.error().message();
  KvSequence sequence;
  ASSERT_TRUE(cache->grow(sequence, n_tokens));
  Forward forward((*model)->backend(), (*model)->weights(), n_tokens);
  const StepSequence step{golden.tokens, 0, &sequence, n_tokens};
  const MatrixView logits = forward.run({&step, 1}, *cache);
  ASSERT_EQ(logits.rows, n_tokens);
  ASSERT_EQ(logits.cols, golden.n_vocab);
  double worst = 0;
  for (std::size_t i = 0; i < golden.logits.size(); ++i) {
    const double error = std::abs(double{logits.data[i]} - double{golden.logits[i]});
    worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error);
  }
  constexpr double tolerance = 1e-4;  // of the range; features move logits by more than 1e-2 of it
  EXPECT_LT(worst, tolerance * golden.range);
}

TEST(Golden, LogitsEqualTransformers) {
  {
    ThreadPool pool(1);
    const std::unique_ptr<Backend> backend = *make_cpu_backend(pool);
    const std::optional<Isa> isa = isa_named(backend->name());
    if (isa && is_approximate(*isa)) {
      GTEST_SKIP() << "LOWBIT_ISA names an approximate set: its logits are off by its own rounding "
                      "of f32 activations, whose bound kernels_test holds";
    }
  }
  int n_models = 0;
  for (const auto& entry : fs::directory_iterator(LOWBIT_SOURCE_DIR "/tests/golden/models")) {
    const Golden golden = read_golden(entry.path());
    expect_logits(entry.path().string(), golden);
    expect_logits((entry.path() / "model.gguf").string(), golden);
    ++n_models;
  }
  EXPECT_GE(n_models, 5);
}

}  // namespace
}  // namespace lowbit

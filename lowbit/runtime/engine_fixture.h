// SPDX-License-Identifier: Apache-2.0
// A small random model and what tests of the engine do with it again and again.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/runtime/engine.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {

class EngineTest : public testing::Test {
 protected:
  std::unique_ptr<Engine> make_engine(const EngineOptions& options,
                                      const Tokenizer* tokenizer = nullptr) {
    auto engine = Engine::create(*backend_, weights_, tokenizer, options);
    EXPECT_TRUE(engine) << engine.error().message();
    return *std::move(engine);
  }

  std::vector<std::int32_t> prompt(std::int64_t n_tokens, std::int32_t first = 1) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < n_tokens; ++i) {
      ids.push_back(static_cast<std::int32_t>((first + i * 7) % weights_.config.n_vocab));
    }
    return ids;
  }

  /// What every request generated until the engine is idle.
  std::map<RequestId, std::vector<std::int32_t>> drain(Engine& engine) {
    std::map<RequestId, std::vector<std::int32_t>> tokens;
    while (!engine.is_idle()) {
      for (const Output& output : engine.step()) {
        if (output.token) tokens[output.id].push_back(*output.token);
        if (output.finish) finished_[output.id] = *output.finish;
      }
    }
    return tokens;
  }

  std::string refusal(Engine& engine, Request request) {
    auto id = engine.add_request(std::move(request));
    return id ? std::string("no error") : id.error().message();
  }

  RandomModel model_{{.seed = 11, .schemes = {"q8_0", "q4_0"}}};
  ThreadPool pool_{1};
  std::unique_ptr<Backend> backend_ = *make_cpu_backend(pool_);
  ModelWeights weights_ = *load_weights(model_, *backend_, {});
  std::map<RequestId, FinishReason> finished_;
};

/// A tokenizer whose token i is one byte, enough to see text and stop strings.
inline Tokenizer byte_tokenizer(std::int64_t n_vocab) {
  TokenizerData data;
  data.pre = "gpt2";
  for (std::int64_t i = 0; i < n_vocab; ++i) {
    data.tokens.push_back(std::string(1, static_cast<char>('!' + i)));
  }
  auto tokenizer = Tokenizer::create(std::move(data));
  EXPECT_TRUE(tokenizer) << tokenizer.error().message();
  return *std::move(tokenizer);
}

}  // namespace lowbit

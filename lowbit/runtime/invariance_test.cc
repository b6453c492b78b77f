// SPDX-License-Identifier: Apache-2.0
// The promise of the engine: the logits of a request are the same bits alone and in a batch, for
// every chunking of its prompt, thread count and instruction set.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/base/isa.h"
#include "lowbit/runtime/engine.h"
#include "lowbit/runtime/random_model.h"
#include "lowbit/runtime/recipe.h"

namespace lowbit {
namespace {

/// Logits of one request, one vector per chosen token, and the tokens.
struct Trace {
  std::vector<std::vector<std::uint32_t>> logits;  // bits, so that NaN compares too
  std::vector<std::int32_t> tokens;
  bool operator==(const Trace&) const = default;
};

struct Setting {
  Isa isa = Isa::scalar;
  int n_threads = 1;
  std::int64_t prefill_chunk = 512;
  bool in_batch = false;
  std::string text() const {
    return fmt::format("{} {} threads, chunks of {}, {}", name_of(isa), n_threads, prefill_chunk,
                       in_batch ? "in a batch" : "alone");
  }
};

#if defined(__SANITIZE_ADDRESS__)
// The sanitizers look for other mistakes and are slow: a corner of the grid is enough for them.
constexpr std::array thread_counts{2};
constexpr std::array<std::int64_t, 1> chunks{7};
#else
constexpr std::array thread_counts{1, 2, 3};
constexpr std::array<std::int64_t, 4> chunks{1, 7, 32, 512};
#endif
constexpr std::int64_t n_requests = 8;
constexpr std::int64_t n_generated = 3;

Request make_request(std::int64_t index, std::int64_t n_vocab) {
  // Lengths on both sides of a chunk, of a block of 64 positions and of one token.
  constexpr std::array<std::int64_t, n_requests> lengths{1, 7, 33, 62, 65, 20, 91, 3};
  Request request;
  for (std::int64_t i = 0; i < lengths[static_cast<std::size_t>(index)]; ++i) {
    request.prompt.push_back(static_cast<std::int32_t>((i * 31 + index * 17 + i * i) % n_vocab));
  }
  request.max_tokens = n_generated;
  request.sampling.seed = static_cast<std::uint64_t>(index);
  request.sampling.temperature = 0.8f;
  return request;
}

/// A model packed for one instruction set and one number of threads.
struct Machine {
  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  ModelWeights weights;

  Machine(const RandomModel& source, const Recipe& recipe, Isa isa, int n_threads)
      : pool(n_threads), backend(*make_cpu_backend(pool, isa)) {
    auto loaded = load_weights(source, *backend, {.activations = recipe.activations});
    EXPECT_TRUE(loaded) << loaded.error().message();
    weights = *std::move(loaded);
  }
};

/// Runs the requests together (some wait for others to end, so that joins and leaves happen) or one
/// by one.
std::vector<Trace> run(Machine& machine, const Recipe& recipe, const Setting& setting) {
  const EngineOptions options{.n_ctx = 200,
                              .n_kv_positions = setting.in_batch ? 448 : 200,
                              .kv = recipe.kv,
                              .max_sequences = 8,
                              .step_tokens = 512,
                              .prefill_chunk = setting.prefill_chunk};
  auto engine = Engine::create(*machine.backend, machine.weights, nullptr, options);
  EXPECT_TRUE(engine) << engine.error().message();
  std::vector<Trace> traces(n_requests);
  std::map<RequestId, Trace*> by_id;
  for (std::size_t i = 0; i < n_requests; ++i) {
    Request request = make_request(static_cast<std::int64_t>(i), machine.weights.config.n_vocab);
    request.on_logits = [&trace = traces[i]](std::int64_t, std::span<const float> logits) {
      auto& bits = trace.logits.emplace_back(logits.size());
      std::memcpy(bits.data(), logits.data(), logits.size_bytes());
    };
    auto id = (*engine)->add_request(std::move(request));
    EXPECT_TRUE(id) << id.error().message();
    by_id[*id] = &traces[i];
    while (!setting.in_batch && !(*engine)->is_idle()) {
      for (const Output& output : (*engine)->step()) {
        by_id[output.id]->tokens.push_back(*output.token);
      }
    }
  }
  while (!(*engine)->is_idle()) {
    for (const Output& output : (*engine)->step()) {
      by_id[output.id]->tokens.push_back(*output.token);
    }
  }
  EXPECT_EQ((*engine)->kv_cache().n_free_blocks(), (*engine)->kv_cache().n_blocks());
  return traces;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  ThreadPool pool(1);
  for (std::size_t i = 0; i < isa_names.size(); ++i) {
    if (make_cpu_backend(pool, static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  }
  return isas;
}

/// Every setting against the reference: scalar kernels, one thread, alone, whole prompts. An
/// approximate set has bits of its own, and must keep them as firmly.
void expect_same_bits(const RandomModel& source, const Recipe& recipe) {
  Machine reference(source, recipe, Isa::scalar, 1);
  const std::vector<Trace> expected = run(reference, recipe, {});
  for (const Trace& trace : expected) {
    ASSERT_EQ(trace.logits.size(), static_cast<std::size_t>(n_generated));
    for (const std::uint32_t bits : trace.logits.back()) {
      ASSERT_TRUE(std::isfinite(std::bit_cast<float>(bits)));
    }
  }
  for (const Isa isa : available_isas()) {
    std::vector<Trace> own;
    if (is_approximate(isa)) {
      Machine machine(source, recipe, isa, 1);
      own = run(machine, recipe, {});
    }
    for (const int n_threads : thread_counts) {
      Machine machine(source, recipe, isa, n_threads);
      for (const std::int64_t chunk : chunks) {
        for (const bool in_batch : {false, true}) {
          const Setting setting{isa, n_threads, chunk, in_batch};
          const std::vector<Trace> found = run(machine, recipe, setting);
          for (std::size_t i = 0; i < n_requests; ++i) {
            EXPECT_TRUE(found[i] == (own.empty() ? expected[i] : own[i]))
                << "request " << i << ": " << setting.text() << ", " << to_string(recipe);
          }
        }
      }
    }
  }
}

TEST(Invariance, Int8ActivationsOnMixedSchemes) {
  const RandomModel model(
      {.seed = 1, .schemes = {"q4_0", "q8_0", "q4_1", "int8.channel", "f16", "mxfp4", "q5_1"}});
  expect_same_bits(model, {.kv = KvKind::f16});
}

TEST(Invariance, SuperBlocksAndInt8Cache) {
  const RandomModel model(
      {.seed = 2, .qk_norm = false, .schemes = {"q4_k", "q6_k", "q3_k", "int3.g64.asym", "q5_k"}});
  expect_same_bits(model, {.kv = KvKind::int8_token});
}

TEST(Invariance, FloatActivationsTiedHead) {
  const RandomModel model({.seed = 3,
                           .biases = false,
                           .tied = true,
                           .schemes = {"nf4.g64", "f32", "e4m3.channel", "q4_1", "bf16", "q4_k"}});
  expect_same_bits(model, {.activations = Activations::f32, .kv = KvKind::f32});
}

/// Every second matrix reads its inputs in a basis, some of them beside others that do not.
TEST(Invariance, TokenActivationsAndBases) {
  RandomModel model({.seed = 4, .schemes = {"int4.channel", "int8.channel", "q4_k", "q8_0"}});
  bool is_turned = true;
  for (auto& [name, tensor] : model.tensors()) {
    if (tensor.rows == 1) continue;
    if (is_turned) tensor.input.hadamard = hadamard_block_of(tensor.cols, tensor.cols);
    is_turned = !is_turned;
  }
  expect_same_bits(model, {.activations = Activations::int8_token, .kv = KvKind::int4_g64});
}

TEST(Invariance, SmallFloatCache) {
  const RandomModel model({.seed = 5, .schemes = {"q8_0", "int4.channel"}});
  expect_same_bits(model, {.kv = KvKind::e4m3_token});
}

}  // namespace
}  // namespace lowbit

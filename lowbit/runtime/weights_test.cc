// SPDX-License-Identifier: Apache-2.0
#include "lowbit/runtime/weights.h"

#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

#include "lowbit/backend/cpu_backend.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

class Weights : public testing::Test {
 protected:
  std::string load_error(const RandomModel& model, const LoadOptions& options = {}) {
    auto weights = load_weights(model, *backend_, options);
    return weights ? std::string("no error") : weights.error().message();
  }
  void expect_mentions(const std::string& message, std::initializer_list<std::string_view> parts) {
    for (const std::string_view part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << message << "\nshould mention " << part;
    }
  }

  ThreadPool pool_{1};
  std::unique_ptr<Backend> backend_ = *make_cpu_backend(pool_);
};

TEST_F(Weights, BindsEveryTensorOnce) {
  const RandomModel model({.schemes = {"q8_0", "q4_0"}});
  std::int64_t n_calls = 0, last_total = 0;
  LoadOptions options;
  options.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    EXPECT_EQ(n_done, ++n_calls);
    last_total = n_total;
    return true;
  };
  auto weights = load_weights(model, *backend_, options);
  ASSERT_TRUE(weights) << weights.error().message();
  EXPECT_EQ(n_calls, last_total);
  RandomModel copy({.schemes = {"q8_0", "q4_0"}});
  EXPECT_EQ(n_calls, static_cast<std::int64_t>(copy.tensors().size()));
  EXPECT_GT(weights->n_bytes(), 0);
  EXPECT_NE(&weights->output_head(), weights->embedding.get());
}

TEST_F(Weights, ProgressCanStop) {
  LoadOptions options;
  options.progress = [](std::int64_t n_done, std::int64_t) { return n_done < 3; };
  expect_mentions(load_error(RandomModel({}), options), {"stopped"});
}

TEST_F(Weights, TiedHeadIsTheEmbedding) {
  const RandomModel model({.tied = true});
  auto weights = load_weights(model, *backend_, {});
  ASSERT_TRUE(weights) << weights.error().message();
  EXPECT_EQ(&weights->output_head(), weights->embedding.get());
}

TEST_F(Weights, ErrorsNameTensorAndShapes) {
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  {
    RandomModel model({});
    model.tensors().erase(name);
    expect_mentions(load_error(model), {name, "missing", "40 x 72"});
  }
  {
    RandomModel model({});
    model.tensors()[name] = QuantizedTensor(*parse_scheme("f32"), 39, 72);
    expect_mentions(load_error(model), {name, "39 x 72", "40 x 72"});
  }
  {
    RandomModel model({});
    model.tensors().erase("model.layers.0.self_attn.v_proj.bias");
    expect_mentions(load_error(model), {"v_proj.bias", "missing"});
  }
  {
    RandomModel model({});
    model.tensors().erase("lm_head.weight");
    expect_mentions(load_error(model), {"lm_head.weight", "missing"});
  }
}

TEST_F(Weights, TensorsThatAreNotWhatTheirHeaderSaysAreErrors) {
  struct Lying : RandomModel {
    using RandomModel::RandomModel;
    Result<QuantizedTensor> load(std::string_view name) const override {
      if (name != "model.layers.0.mlp.up_proj.weight") return RandomModel::load(name);
      return QuantizedTensor(*parse_scheme("f32"), 208, 72);
    }
  };
  expect_mentions(load_error(Lying(RandomModel::Options{})),
                  {"model.layers.0.mlp.up_proj.weight", "208 x 72", "104 x 72"});
}

TEST_F(Weights, NumbersThatAreNotFiniteAreErrors) {
  constexpr std::uint32_t half_nan = 0x7e00, float_infinity = 0x7f800000;
  {
    RandomModel model({.schemes = {"q4_0"}});
    const std::string name = "model.layers.1.mlp.up_proj.weight";
    model.tensors()[name].scale->codes.set(5, 1, half_nan);
    expect_mentions(load_error(model), {name, "scale", "not finite"});
  }
  for (const char* scheme : {"f16", "bf16", "f32"}) {
    RandomModel model({.schemes = {scheme}});
    const std::string name = "model.layers.0.self_attn.o_proj.weight";
    const std::uint32_t bits = *scheme == 'f' && scheme[1] == '1' ? half_nan : float_infinity >> 16;
    model.tensors()[name].codes.set(71, 79, scheme[1] == '3' ? float_infinity : bits);
    expect_mentions(load_error(model), {name, "not finite"});
  }
  {
    RandomModel model({});
    model.tensors()["model.norm.weight"].codes.set(0, 3, float_infinity);
    expect_mentions(load_error(model), {"model.norm.weight", "not finite"});
  }
}

TEST_F(Weights, ActivationsThatCannotBeTakenAreErrors) {
  const RandomModel k_type({.schemes = {"q8_0", "q4_k"}});
  expect_mentions(load_error(k_type, {.activations = Activations::int8_g32}),
                  {"lm_head.weight", "q4_k", "int8.g256"});
  EXPECT_EQ(load_error(k_type, {.activations = Activations::int8_g256}), "no error");
  const RandomModel float_table({.schemes = {"q8_0", "nf4.g64"}});
  expect_mentions(load_error(float_table, {.activations = Activations::int8_g32}),
                  {"lm_head.weight", "nf4"});
  EXPECT_EQ(load_error(float_table, {.activations = Activations::f32}), "no error");
  // A table that is only read row by row takes no activations.
  const RandomModel float_embedding(
      {.schemes = {"f16", "q8_0", "q8_0", "q8_0", "q8_0", "q8_0", "q8_0", "q8_0", "q8_0", "q8_0",
                   "q8_0", "q8_0", "q8_0", "q8_0", "q8_0", "q8_0"}});
  EXPECT_EQ(load_error(float_embedding, {.activations = Activations::int8_g32}), "no error");
}

TEST_F(Weights, TransformReplacesMatrices) {
  const RandomModel model({.schemes = {"f32"}});
  const Scheme q8_0 = *parse_scheme("q8_0");
  std::vector<std::string> seen;
  LoadOptions options;
  options.transform = [&](std::string_view name, QuantizedTensor tensor) {
    seen.emplace_back(name);
    if (!name.ends_with("up_proj.weight")) return Result<QuantizedTensor>(std::move(tensor));
    QuantizedTensor packed(q8_0, tensor.rows, tensor.cols);
    return Result<QuantizedTensor>(std::move(packed));
  };
  auto weights = load_weights(model, *backend_, options);
  ASSERT_TRUE(weights) << weights.error().message();
  EXPECT_EQ(seen.size(), 2u + 2u * 7u);  // embedding, head and seven matrices in each layer
  EXPECT_EQ(weights->layers[1].up.w->scheme, q8_0);
  EXPECT_EQ(weights->layers[1].gate.w->scheme, *parse_scheme("f32"));

  options.transform = [](std::string_view, QuantizedTensor) {
    return Result<QuantizedTensor>(Error("no such method"));
  };
  expect_mentions(load_error(model, options), {"model.embed_tokens.weight: no such method"});
}

}  // namespace
}  // namespace lowbit

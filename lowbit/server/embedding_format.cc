// SPDX-License-Identifier: Apache-2.0
// Answers of the embeddings API: one vector of length 1 per input, as OpenAI's are.
#include <bit>
#include <cmath>
#include <cstdint>

#include "lowbit/server/answer_format.h"

namespace lowbit {
namespace {

static_assert(std::endian::native == std::endian::little);

std::vector<float> normalized(std::vector<float> vector) {
  double sum = 0;
  for (const float v : vector) sum += static_cast<double>(v) * static_cast<double>(v);
  if (sum == 0) return vector;
  const double factor = 1 / std::sqrt(sum);
  for (float& v : vector) v = static_cast<float>(static_cast<double>(v) * factor);
  return vector;
}

std::string base64(std::span<const std::byte> bytes) {
  constexpr std::string_view letters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  constexpr std::size_t group = 3;
  std::string text;
  text.reserve((bytes.size() + group - 1) / group * 4);
  for (std::size_t i = 0; i < bytes.size(); i += group) {
    const std::size_t n_left = std::min(group, bytes.size() - i);
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < group; ++k) {
      bits = bits << 8 | (k < n_left ? std::to_integer<std::uint32_t>(bytes[i + k]) : 0);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += k <= n_left ? letters[bits >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

class EmbeddingFormat final : public AnswerFormat {
 public:
  explicit EmbeddingFormat(const FormatOptions& options) : options_(options) {}

  Json whole(std::span<const ChoicePart> choices, const Usage& usage) const override {
    Json data = Json::array();
    for (const ChoicePart& choice : choices) {
      const std::vector<float> vector = normalized(choice.embedding);
      Json entry = {{"object", "embedding"}, {"index", data.size()}};
      entry["embedding"] =
          options_.as_base64 ? Json(base64(std::as_bytes(std::span(vector)))) : Json(vector);
      data.push_back(std::move(entry));
    }
    return {{"object", "list"},
            {"data", std::move(data)},
            {"model", options_.head.model},
            {"usage", {{"prompt_tokens", usage.n_prompt}, {"total_tokens", usage.n_prompt}}}};
  }
  // Never streamed.
  std::string opening(std::size_t) override { return {}; }
  std::string part(std::size_t, const ChoicePart&) override { return {}; }
  std::string closing(std::span<const ChoicePart>, const Usage&, bool) override { return {}; }

 private:
  FormatOptions options_;
};

}  // namespace

std::unique_ptr<AnswerFormat> make_embedding_format(const FormatOptions& options) {
  return std::make_unique<EmbeddingFormat>(options);
}

}  // namespace lowbit

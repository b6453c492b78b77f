// SPDX-License-Identifier: Apache-2.0
// THE list of named pre-tokenizers. The names are those that GGUF files carry, the expressions
// those of the models' own tokenizer.json where it is known, else those of llama.cpp
// (src/llama-vocab.cpp), completed by the `|\s+` that its splitter implies. Adding one is adding a
// row.
#include <algorithm>

#include "lowbit/model/pretokenizer.h"

namespace lowbit {
namespace {

constexpr std::string_view gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view gpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view digit = R"(\p{N})";
constexpr std::string_view digits = R"(\p{N}+)";
constexpr std::string_view up_to_3_digits = R"(\p{N}{1,3})";
constexpr std::string_view ascii_digits_3 = "[0-9][0-9][0-9]";
constexpr std::string_view newline = R"([\r\n])";
constexpr std::string_view falcon_punctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr std::string_view default_punctuation = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr std::string_view deepseek_cjk = "[一-龥ࠀ-一가-퟿]+";
constexpr std::string_view deepseek3_cjk = "[一-龥぀-ゟ゠-ヿ]+";
constexpr std::string_view deepseek3_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// The letters that have case, as the model's authors spelled them out.
constexpr std::string_view deepseek_letters =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";

}  // namespace

std::string_view gpt2_split_regex() {
  return gpt2;
}

std::span<const NamedPretokenizer> pretokenizer_list() {
  static const std::vector<NamedPretokenizer> rows = {
      {"gpt-2 gpt2 phi-2 olmo mpt jais jina-es jina-de jina-v1-en jina-v2-es jina-v2-de "
       "jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert exaone4 trillion "
       "granite-docling",
       {gpt2}},
      {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", {digit, gpt2}},
      {.names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
       .regexes = {llama3},
       .ignore_merges = true,
       .add_bos = true},
      {"dbrx smaug-bpe chatglm-bpe", {llama3}},
      {.names = "glm4 glm5", .regexes = {llama3}, .ignore_merges = true},
      {"qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan solar-open megrez grok-2", {qwen2}},
      {"qwen35", {qwen35}},
      {.names = "tekken", .regexes = {tekken}, .ignore_merges = true, .add_bos = true},
      {"gpt-4o llama4 kanana2 talkie minimax-m2", {gpt4o}},
      {"falcon", {falcon_punctuation, gpt2, ascii_digits_3}},
      {"deepseek-llm",
       {newline, deepseek_letters, R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\s+$)", deepseek_cjk,
        digits}},
      {"deepseek-coder", {newline, R"(\s?\p{L}+)", R"(\s?\p{P}+)", deepseek_cjk, digit}},
      {"deepseek-v3 hunyuan-dense joyai-llm hy_v4",
       {up_to_3_digits, deepseek3_cjk, deepseek3_words}},
      {"default", {default_punctuation, gpt2, digits, ascii_digits_3}},
  };
  return rows;
}

const NamedPretokenizer* find_pretokenizer(std::string_view name) {
  for (const NamedPretokenizer& row : pretokenizer_list()) {
    std::string_view names = row.names;
    while (!names.empty()) {
      const std::size_t n_bytes = std::min(names.find(' '), names.size());
      if (names.substr(0, n_bytes) == name) return &row;
      names.remove_prefix(std::min(n_bytes + 1, names.size()));
    }
  }
  return nullptr;
}

}  // namespace lowbit

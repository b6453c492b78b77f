// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/tokenizer_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

namespace lowbit {
namespace {

using nlohmann::ordered_json;

using Kind = PretokenizerStep::Kind;

bool means_the_same(const NamedPretokenizer& row, const TokenizerData& data) {
  if (row.ignore_merges != data.ignore_merges) return false;
  return std::ranges::equal(
      data.steps, row.regexes, [](const PretokenizerStep& step, std::string_view regex) {
        return step.kind == Kind::split && step.behavior == SplitBehavior::isolated &&
               !step.invert && step.regex == regex;
      });
}

/// The name GGUF has for the pre-tokenizer, the first of its row.
Result<std::string> gguf_name(const TokenizerData& data) {
  if (!data.pre.empty()) return data.pre;
  for (const NamedPretokenizer& row : pretokenizer_list()) {
    if (means_the_same(row, data)) return std::string(row.names.substr(0, row.names.find(' ')));
  }
  return Error(
      "GGUF has no name for the pre-tokenizer of this model, so its tokenizer cannot be written "
      "there; "
      "write a folder (-o DIR/)");
}

TokenKind kind_of(const TokenizerData& data, std::size_t id) {
  return data.kinds.empty() ? TokenKind::normal : data.kinds[id];
}

bool is_added(TokenKind kind) {
  return kind == TokenKind::control || kind == TokenKind::user_defined;
}

std::vector<PretokenizerStep> steps_of(const TokenizerData& data) {
  if (data.pre.empty()) return data.steps;
  std::vector<PretokenizerStep> steps;
  if (const NamedPretokenizer* row = find_pretokenizer(data.pre)) {
    for (const std::string_view regex : row->regexes)
      steps.push_back({.regex = std::string(regex)});
  }
  return steps;
}

std::string_view name_of(SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::isolated:
      return "Isolated";
    case SplitBehavior::removed:
      return "Removed";
    case SplitBehavior::merged_with_previous:
      return "MergedWithPrevious";
    case SplitBehavior::merged_with_next:
      return "MergedWithNext";
    case SplitBehavior::contiguous:
      return "Contiguous";
  }
  return "Isolated";
}

ordered_json byte_level_json(bool prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

ordered_json pretokenizer_json(const TokenizerData& data) {
  const std::vector<PretokenizerStep> steps = steps_of(data);
  ordered_json items = ordered_json::array();
  bool has_letters = false;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].kind == Kind::split) {
      items.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", steps[i].regex}}},
                       {"behavior", name_of(steps[i].behavior)},
                       {"invert", steps[i].invert}});
      continue;
    }
    // ByteLevel is up to three steps: a space in front, GPT-2's split, letters.
    const bool prefix_space = steps[i].kind == Kind::prefix_space;
    const bool use_regex =
        prefix_space && i + 1 < steps.size() && steps[i + 1].regex == gpt2_split_regex();
    if (use_regex) ++i;
    if (prefix_space && i + 1 < steps.size() && steps[i + 1].kind == Kind::byte_alphabet) ++i;
    items.push_back(byte_level_json(prefix_space, use_regex));
    has_letters = true;
  }
  if (!has_letters) items.push_back(byte_level_json(false, false));
  return {{"type", "Sequence"}, {"pretokenizers", items}};
}

ordered_json added_tokens_json(const TokenizerData& data) {
  ordered_json added = ordered_json::array();
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    const TokenKind kind = kind_of(data, id);
    if (!is_added(kind)) continue;
    AddedToken flags;
    for (const AddedToken& token : data.added) {
      if (token.id == static_cast<TokenId>(id)) flags = token;
    }
    added.push_back({{"id", id},
                     {"content", data.tokens[id]},
                     {"single_word", flags.single_word},
                     {"lstrip", flags.lstrip},
                     {"rstrip", flags.rstrip},
                     {"normalized", flags.normalized},
                     {"special", kind == TokenKind::control}});
  }
  return added;
}

/// Readers of tokenizer.json give an added token that is not in the vocabulary the next id behind
/// it, whatever id stands beside the token: one in front of a normal token is in both lists.
ordered_json vocabulary_json(const TokenizerData& data) {
  std::size_t n_ids = 0;  // up to the last normal token
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    if (!is_added(kind_of(data, id))) n_ids = id + 1;
  }
  ordered_json::object_t vocabulary;
  std::unordered_set<std::string_view> seen;
  for (std::size_t id = 0; id < n_ids; ++id) {
    if (!seen.insert(data.tokens[id]).second) continue;
    // Past the object's own insert, which looks through all keys: quadratic, 24 s on 150k tokens.
    vocabulary.ordered_json::object_t::Container::emplace_back(data.tokens[id], id);
  }
  return vocabulary;
}

ordered_json post_processor_json(const TokenizerData& data) {
  const ordered_json byte_level = {{"type", "ByteLevel"},
                                   {"add_prefix_space", true},
                                   {"trim_offsets", false},
                                   {"use_regex", true}};
  if (!data.add_bos || !data.bos) return byte_level;
  const std::string& bos = data.tokens[static_cast<std::size_t>(*data.bos)];
  const ordered_json special = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto sequence = [](const char* name, int type) {
    return ordered_json{{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  const ordered_json pair_special = {{"SpecialToken", {{"id", bos}, {"type_id", 1}}}};
  const ordered_json with_bos = {
      {"type", "TemplateProcessing"},
      {"single", ordered_json::array({special, sequence("A", 0)})},
      {"pair", ordered_json::array({special, sequence("A", 0), pair_special, sequence("B", 1)})},
      {"special_tokens", {{bos, {{"id", bos}, {"ids", {*data.bos}}, {"tokens", {bos}}}}}}};
  return {{"type", "Sequence"}, {"processors", ordered_json::array({byte_level, with_bos})}};
}

ordered_json token_text(const TokenizerData& data, const std::optional<TokenId>& id) {
  if (!id) return nullptr;
  return data.tokens[static_cast<std::size_t>(*id)];
}

}  // namespace

Status tokenizer_to_metadata(const TokenizerData& data, Metadata& metadata) {
  const auto pre = gguf_name(data);
  if (!pre) return Error(pre.error());
  metadata.set("tokenizer.ggml.model", Value::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", Value::string(*pre));
  metadata.set("tokenizer.ggml.tokens", Value::strings(data.tokens));
  std::vector<std::int64_t> kinds;
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    kinds.push_back(static_cast<std::int64_t>(kind_of(data, id)));
  }
  metadata.set("tokenizer.ggml.token_type", Value::integers(std::move(kinds)));
  std::vector<std::string> merges;
  for (const auto& [left, right] : data.merges) merges.push_back(left + " " + right);
  metadata.set("tokenizer.ggml.merges", Value::strings(std::move(merges)));
  const auto set_id = [&](const char* key, const std::optional<TokenId>& id) {
    if (id) metadata.set(key, Value::integer(*id));
  };
  set_id("tokenizer.ggml.bos_token_id", data.bos);
  set_id("tokenizer.ggml.eos_token_id", data.eos);
  set_id("tokenizer.ggml.padding_token_id", data.pad);
  set_id("tokenizer.ggml.unknown_token_id", data.unknown);
  metadata.set("tokenizer.ggml.add_bos_token", Value::boolean(data.add_bos));
  return ok();
}

ordered_json tokenizer_to_json(const TokenizerData& data) {
  ordered_json merges = ordered_json::array();
  for (const auto& [left, right] : data.merges)
    merges.push_back(ordered_json::array({left, right}));
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens_json(data)},
          {"normalizer", data.nfc ? ordered_json{{"type", "NFC"}} : ordered_json(nullptr)},
          {"pre_tokenizer", pretokenizer_json(data)},
          {"post_processor", post_processor_json(data)},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", true},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", token_text(data, data.unknown)},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", data.ignore_merges},
            {"vocab", vocabulary_json(data)},
            {"merges", std::move(merges)}}}};
}

ordered_json tokenizer_config_to_json(const TokenizerData& data, std::string_view chat_template) {
  ordered_json config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"}, {"add_bos_token", data.add_bos},
      {"bos_token", token_text(data, data.bos)},      {"eos_token", token_text(data, data.eos)},
      {"pad_token", token_text(data, data.pad)},      {"unk_token", token_text(data, data.unknown)},
      {"clean_up_tokenization_spaces", false}};
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  return config;
}

ordered_json generation_config_to_json(const TokenizerData& data) {
  std::vector<TokenId> ends = data.end_ids;
  if (data.eos && std::ranges::find(ends, *data.eos) == ends.end())
    ends.insert(ends.begin(), *data.eos);
  ordered_json config = {{"eos_token_id", ends}};
  if (data.bos) config["bos_token_id"] = *data.bos;
  if (data.pad) config["pad_token_id"] = *data.pad;
  return config;
}

}  // namespace lowbit

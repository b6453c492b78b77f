// SPDX-License-Identifier: Apache-2.0
// The tokenizer.ggml.* keys of a GGUF file. Whether a prompt begins with BOS and whether whole
// pieces are looked up is left to the name of the pre-tokenizer there (pretokenizer_list). The
// format has no place for a normalizer, and its reference applies none, not even the NFC of Qwen:
// nor do we.
#include <string>

#include "lowbit/io/metadata.h"
#include "lowbit/model/tokenizer_load.h"

namespace lowbit {
namespace {

// The id under a key. As in the reference, one outside the vocabulary counts as absent: files
// without a padding token hold -1.
Result<std::optional<TokenId>> special_id(const Metadata& metadata, std::string_view key,
                                          std::size_t n_tokens) {
  if (!metadata.contains(key)) return std::optional<TokenId>();
  auto id = metadata.integer(key);
  if (!id) return std::move(id).error();
  const bool is_inside = *id >= 0 && static_cast<std::uint64_t>(*id) < n_tokens;
  return is_inside ? std::optional(static_cast<TokenId>(*id)) : std::nullopt;
}

Status read_kinds(const Metadata& metadata, TokenizerData& data) {
  constexpr std::string_view key = "tokenizer.ggml.token_type";
  if (!metadata.contains(key)) return ok();
  auto kinds = metadata.integers(key);
  if (!kinds) return std::move(kinds).error();
  if ((*kinds)->size() != data.tokens.size()) {
    return Error(std::string(key) + " has " + std::to_string((*kinds)->size()) + " entries for " +
                 std::to_string(data.tokens.size()) + " tokens");
  }
  constexpr auto lowest = static_cast<std::int64_t>(TokenKind::normal);
  constexpr auto highest = static_cast<std::int64_t>(TokenKind::byte);
  data.kinds.reserve(data.tokens.size());
  for (const std::int64_t kind : **kinds) {
    // 0 is "undefined"; what we do not know is never produced.
    data.kinds.push_back(kind < lowest || kind > highest ? TokenKind::unused
                                                         : static_cast<TokenKind>(kind));
  }
  return ok();
}

Status read_merges(const Metadata& metadata, TokenizerData& data) {
  auto merges = metadata.strings("tokenizer.ggml.merges");
  if (!merges) return std::move(merges).error();
  data.merges.reserve((*merges)->size());
  for (const std::string& merge : **merges) {
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      return Error("tokenizer.ggml.merges[" + std::to_string(data.merges.size()) + "] is \"" +
                   merge + "\", not two tokens");
    }
    data.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return ok();
}

Status read_special_ids(const Metadata& metadata, TokenizerData& data) {
  std::optional<TokenId> eot, eom;
  const std::pair<std::string_view, std::optional<TokenId>*> ids[] = {
      {"tokenizer.ggml.bos_token_id", &data.bos},
      {"tokenizer.ggml.eos_token_id", &data.eos},
      {"tokenizer.ggml.padding_token_id", &data.pad},
      {"tokenizer.ggml.eot_token_id", &eot},
      {"tokenizer.ggml.eom_token_id", &eom}};
  for (const auto& [key, to] : ids) {
    auto id = special_id(metadata, key, data.tokens.size());
    if (!id) return std::move(id).error();
    *to = *id;
  }
  for (const auto& id : {eot, eom}) {
    if (id) data.end_ids.push_back(*id);
  }
  return ok();
}

Status read_flags(const Metadata& metadata, TokenizerData& data) {
  const NamedPretokenizer* row = find_pretokenizer(data.pre);
  if (row == nullptr) {
    return Error("tokenizer.ggml.pre names the pre-tokenizer \"" + data.pre +
                 "\", which is not known");
  }
  data.ignore_merges = row->ignore_merges;
  data.add_bos = row->add_bos && data.bos;
  constexpr std::string_view key = "tokenizer.ggml.add_bos_token";
  if (!metadata.contains(key)) return ok();
  auto add_bos = metadata.boolean(key);
  if (!add_bos) return std::move(add_bos).error();
  data.add_bos = *add_bos;
  return ok();
}

}  // namespace

Result<TokenizerData> tokenizer_from_gguf(const Metadata& metadata) {
  auto model = metadata.string("tokenizer.ggml.model");
  if (!model) return std::move(model).error();
  if (*model != "gpt2") {
    return Error("tokenizer.ggml.model is \"" + std::string(*model) +
                 "\"; only \"gpt2\", byte-level BPE, is supported");
  }
  TokenizerData data;
  data.pre = "default";
  if (metadata.contains("tokenizer.ggml.pre")) {
    auto pre = metadata.string("tokenizer.ggml.pre");
    if (!pre) return std::move(pre).error();
    data.pre = *pre;
  }
  auto tokens = metadata.strings("tokenizer.ggml.tokens");
  if (!tokens) return std::move(tokens).error();
  data.tokens = **tokens;

  for (const auto read : {read_kinds, read_merges, read_special_ids, read_flags}) {
    if (auto done = read(metadata, data); !done) return std::move(done).error();
  }
  find_end_tokens(data);
  return data;
}

}  // namespace lowbit

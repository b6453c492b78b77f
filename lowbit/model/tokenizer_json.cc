// SPDX-License-Identifier: Apache-2.0
// tokenizer.json (the format of Hugging Face tokenizers), as far as byte-level BPE needs it.
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "lowbit/model/tokenizer_load.h"

namespace lowbit {
namespace {

using nlohmann::json;

// Ids may leave gaps, but not so many that a small file asks for gigabytes.
constexpr std::size_t max_gap_ids = 4096;

const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool flag(const json& object, const char* key, bool otherwise) {
  const json* value = member(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

std::string text(const json& object, const char* key) {
  const json* value = member(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

std::string in_quotes(std::string text) {
  return text.insert(0, 1, '"') += '"';
}

std::optional<std::size_t> id_in(const json& value) {
  if (!value.is_number_integer() || value < 0 || value > INT32_MAX) return std::nullopt;
  return value.get<std::size_t>();
}

std::vector<const json*> sequence(const json& object, const char* key) {
  std::vector<const json*> items;
  if (text(object, "type") != "Sequence") {
    items.push_back(&object);
  } else if (const json* list = member(object, key); list != nullptr && list->is_array()) {
    for (const json& item : *list) items.push_back(&item);
  }
  return items;
}

Status read_normalizer(const json& object, TokenizerData& data) {
  for (const json* item : sequence(object, "normalizers")) {
    if (text(*item, "type") != "NFC") {
      return Error("the normalizer " + in_quotes(text(*item, "type")) +
                   " is not supported; byte-level tokenizers use NFC or none");
    }
    data.nfc = true;
  }
  return ok();
}

std::string escaped(std::string_view literal) {
  std::string regex;
  for (const char c : literal) {
    // A backslash before an ASCII character that is no letter or digit makes it literal.
    if (c > ' ' && c < 0x7f && is_markup(std::string_view(&c, 1))) regex += '\\';
    regex += c;
  }
  return regex;
}

Result<SplitBehavior> read_behavior(const json& object) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> names = {
      {{"Isolated", SplitBehavior::isolated},
       {"Removed", SplitBehavior::removed},
       {"MergedWithPrevious", SplitBehavior::merged_with_previous},
       {"MergedWithNext", SplitBehavior::merged_with_next},
       {"Contiguous", SplitBehavior::contiguous}}};
  const std::string name = text(object, "behavior");
  for (const auto& [known, behavior] : names) {
    if (name == known) return behavior;
  }
  return Error("the split behavior \"" + name + "\" is not known");
}

// Appends the steps of one pre-tokenizer that is no sequence; true if it is the byte-level one.
Result<bool> read_pretokenizer(const json& object, std::vector<PretokenizerStep>& steps) {
  using Kind = PretokenizerStep::Kind;
  const std::string type = text(object, "type");
  if (type == "ByteLevel") {
    if (flag(object, "add_prefix_space", true)) steps.push_back({.kind = Kind::prefix_space});
    if (flag(object, "use_regex", true)) {
      steps.push_back({.regex = std::string(gpt2_split_regex())});
    }
    steps.push_back({.kind = Kind::byte_alphabet});
    return true;
  }
  if (type == "Digits") {
    steps.push_back({.regex = flag(object, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)"});
    return false;
  }
  if (type == "Punctuation" || type == "Split") {
    auto behavior = read_behavior(object);
    if (!behavior) return std::move(behavior).error();
    PretokenizerStep step{.regex = R"([\p{P}!-/:-@\[-`{-~])", .behavior = *behavior};
    if (type == "Split") {
      const json* pattern = member(object, "pattern");
      if (pattern == nullptr) return Error("a Split has no pattern");
      step.regex =
          member(*pattern, "Regex") ? text(*pattern, "Regex") : escaped(text(*pattern, "String"));
      if (step.regex.empty()) return Error("a Split has an empty pattern");
      step.invert = flag(object, "invert", false);
    }
    steps.push_back(std::move(step));
    return false;
  }
  return Error("the pre-tokenizer \"" + type + "\" is not supported");
}

Status read_pretokenizers(const json& object, TokenizerData& data) {
  bool is_byte_level = false;
  for (const json* item : sequence(object, "pretokenizers")) {
    auto read = read_pretokenizer(*item, data.steps);
    if (!read) return std::move(read).error();
    is_byte_level = is_byte_level || *read;
  }
  if (!is_byte_level) return Error("the pre-tokenizer is not byte-level");
  // Letters matter only to steps behind them.
  if (data.steps.back().kind == PretokenizerStep::Kind::byte_alphabet) data.steps.pop_back();
  return ok();
}

struct Vocabulary {
  TokenizerData& data;
  std::unordered_map<std::string_view, std::size_t> ids;  // views into the JSON

  std::optional<TokenId> find(std::string_view content) const {
    const auto found = ids.find(content);
    if (found == ids.end()) return std::nullopt;
    return static_cast<TokenId>(found->second);
  }
};

Status read_vocabulary(const json& tokenizer, const json& model, Vocabulary& vocabulary) {
  const json* vocab = member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Error("model.vocab is missing");
  const json* added = member(tokenizer, "added_tokens");
  const bool has_added = added != nullptr && added->is_array();
  const std::size_t n_entries = vocab->size() + (has_added ? added->size() : 0);
  const std::size_t max_ids = 2 * n_entries + max_gap_ids;
  TokenizerData& data = vocabulary.data;

  const auto put = [&](const std::string& content, const json& id_value, TokenKind kind) -> Status {
    const auto id = id_in(id_value);
    if (!id || *id >= max_ids) {
      return Error("the token \"" + content + "\" has the id " + id_value.dump() +
                   ", but there are " + std::to_string(n_entries) + " tokens");
    }
    if (*id >= data.tokens.size()) {
      data.tokens.resize(*id + 1);
      data.kinds.resize(*id + 1, TokenKind::unused);
    }
    data.tokens[*id] = content;
    data.kinds[*id] = kind;
    return ok();
  };
  data.tokens.reserve(n_entries);
  data.kinds.reserve(n_entries);
  vocabulary.ids.reserve(n_entries);
  for (const auto& [content, id] : vocab->items()) {
    if (auto done = put(content, id, TokenKind::normal); !done) return done;
    vocabulary.ids.emplace(content, id.get<std::size_t>());
  }
  if (!has_added) return ok();
  for (const json& token : *added) {
    const json *content = member(token, "content"), *id = member(token, "id");
    if (content == nullptr || !content->is_string() || id == nullptr) {
      return Error("an entry of added_tokens has no content or no id");
    }
    const bool special = flag(token, "special", false);
    const auto& name = content->get_ref<const std::string&>();
    if (auto done = put(name, *id, special ? TokenKind::control : TokenKind::user_defined); !done) {
      return done;
    }
    vocabulary.ids.insert_or_assign(name, id->get<std::size_t>());
    data.added.push_back({.id = id->get<TokenId>(),
                          .content = {},
                          .lstrip = flag(token, "lstrip", false),
                          .rstrip = flag(token, "rstrip", false),
                          .single_word = flag(token, "single_word", false),
                          .normalized = flag(token, "normalized", !special)});
  }
  return ok();
}

Status read_merges(const json& model, TokenizerData& data) {
  const json* merges = member(model, "merges");
  if (merges == nullptr || !merges->is_array()) return Error("model.merges is missing");
  data.merges.reserve(merges->size());
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      const auto& pair = merge.get_ref<const std::string&>();
      const std::size_t space = pair.find(' ');
      if (space != std::string::npos) {
        data.merges.emplace_back(pair.substr(0, space), pair.substr(space + 1));
        continue;
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      data.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    return Error("merge " + std::to_string(data.merges.size()) + " is not a pair of tokens");
  }
  return ok();
}

Status read_model(const json& tokenizer, Vocabulary& vocabulary) {
  const json* model = member(tokenizer, "model");
  if (model == nullptr) return Error("there is no model");
  // Files older than the field hold merges.
  const std::string type = member(*model, "type") ? text(*model, "type") : "BPE";
  if (type != "BPE") {
    return Error("the model type \"" + type + "\" is not supported, only byte-level BPE");
  }
  if (flag(*model, "byte_fallback", false)) {
    return Error(
        "this is a SentencePiece tokenizer (byte_fallback), only byte-level BPE is supported");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text(*model, key).empty()) {
      return Error(std::string("model.") + key + " is not supported");
    }
  }
  if (auto done = read_vocabulary(tokenizer, *model, vocabulary); !done) return done;
  if (auto done = read_merges(*model, vocabulary.data); !done) return done;
  vocabulary.data.ignore_merges = flag(*model, "ignore_merges", false);
  vocabulary.data.unknown = vocabulary.find(text(*model, "unk_token"));
  return ok();
}

// The token in front of the text in TemplateProcessing: that is BOS.
Status read_post_processor(const json& object, Vocabulary& vocabulary) {
  for (const json* item : sequence(object, "processors")) {
    const std::string type = text(*item, "type");
    if (type == "ByteLevel") continue;  // moves offsets only
    if (type != "TemplateProcessing") {
      return Error("the post-processor \"" + type + "\" is not supported");
    }
    const json* single = member(*item, "single");
    if (single == nullptr || !single->is_array() || single->empty()) continue;
    const json* special = member(single->front(), "SpecialToken");
    if (special == nullptr) continue;
    vocabulary.data.bos = vocabulary.find(text(*special, "id"));
    vocabulary.data.add_bos = vocabulary.data.bos.has_value();
  }
  return ok();
}

// A token that a config names: a string, or an object with its content.
std::optional<TokenId> named_token(const json* config, const char* key,
                                   const Vocabulary& vocabulary) {
  const json* value = config == nullptr ? nullptr : member(*config, key);
  if (value == nullptr) return std::nullopt;
  return vocabulary.find(value->is_string() ? value->get<std::string>() : text(*value, "content"));
}

// Ids that a config lists: a number or an array of numbers. Those outside the vocabulary can never
// be generated and are left out.
std::vector<TokenId> listed_ids(const json* config, const char* key, const TokenizerData& data) {
  const json* value = config == nullptr ? nullptr : member(*config, key);
  std::vector<TokenId> ids;
  const auto add = [&](const json& item) {
    const auto id = id_in(item);
    if (id && *id < data.tokens.size()) ids.push_back(static_cast<TokenId>(*id));
  };
  if (value == nullptr) return ids;
  if (!value->is_array()) {
    add(*value);
  } else {
    for (const json& item : *value) add(item);
  }
  return ids;
}

void read_configs(const json* tokenizer_config, const json* generation_config,
                  const Vocabulary& vocabulary) {
  TokenizerData& data = vocabulary.data;
  if (!data.bos) data.bos = named_token(tokenizer_config, "bos_token", vocabulary);
  data.eos = named_token(tokenizer_config, "eos_token", vocabulary);
  data.pad = named_token(tokenizer_config, "pad_token", vocabulary);
  if (tokenizer_config != nullptr) {
    data.add_bos = flag(*tokenizer_config, "add_bos_token", data.add_bos) && data.bos;
  }
  data.end_ids = listed_ids(generation_config, "eos_token_id", data);
  if (!data.eos && !data.end_ids.empty()) data.eos = data.end_ids.front();
  if (!data.bos) {
    const auto ids = listed_ids(generation_config, "bos_token_id", data);
    if (!ids.empty()) data.bos = ids.front();
  }
}

Result<TokenizerData> read(const json& tokenizer, const json* tokenizer_config,
                           const json* generation_config) {
  TokenizerData data;
  Vocabulary vocabulary{data, {}};
  if (auto done = read_model(tokenizer, vocabulary); !done) return std::move(done).error();
  if (const json* object = member(tokenizer, "normalizer")) {
    if (auto done = read_normalizer(*object, data); !done) return std::move(done).error();
  }
  const json* pretokenizer = member(tokenizer, "pre_tokenizer");
  if (pretokenizer == nullptr) return Error("there is no pre-tokenizer, so it is not byte-level");
  if (auto done = read_pretokenizers(*pretokenizer, data); !done) return std::move(done).error();
  if (const json* object = member(tokenizer, "post_processor")) {
    if (auto done = read_post_processor(*object, vocabulary); !done) return std::move(done).error();
  }
  read_configs(tokenizer_config, generation_config, vocabulary);
  find_end_tokens(data);
  return data;
}

}  // namespace

Result<TokenizerData> tokenizer_from_json(const json& tokenizer, const json* tokenizer_config,
                                          const json* generation_config) {
  auto data = read(tokenizer, tokenizer_config, generation_config);
  if (!data) return std::move(data).error().in("tokenizer.json");
  return data;
}

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
#include "lowbit/grammar/token_vocabulary.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "lowbit/grammar/json_text.h"
#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

constexpr std::size_t word_bits = 64;

void set_bit(std::vector<std::uint64_t>& mask, TokenId id) {
  const auto bit = static_cast<std::size_t>(id);
  mask[bit / word_bits] |= std::uint64_t{1} << (bit % word_bits);
}

bool is_plain_text(std::string_view bytes) {
  const auto is_special = [](char c) {
    return c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ';
  };
  return std::none_of(bytes.begin(), bytes.end(), is_special) &&
         utf8_valid_bytes(bytes) == bytes.size();
}

// What a token means between two characters of a string.
struct StringToken {
  enum class Kind { inside, closing, neither } kind = Kind::neither;
  std::uint32_t n_chars = 0;  // begun, before the quote if there is one
  std::size_t quote_at = 0;
};

StringToken read_in_string(const Dfa& character, std::string_view bytes) {
  StringToken token;
  std::uint32_t state = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto next = character.next(state, static_cast<unsigned char>(bytes[i]));
    if (!next) {
      const bool is_closing = state == 0 && bytes[i] == '"';
      token.kind = is_closing ? StringToken::Kind::closing : StringToken::Kind::neither;
      token.quote_at = i;
      return token;
    }
    token.n_chars += state == 0 ? 1 : 0;
    state = character.states[*next].is_accepting ? 0 : *next;
  }
  token.kind = StringToken::Kind::inside;
  return token;
}

std::vector<std::vector<std::uint64_t>> masks_by_chars(
    const std::vector<std::pair<std::uint32_t, TokenId>>& tokens, std::size_t n_words) {
  std::uint32_t max_chars = 0;
  for (const auto& [n_chars, id] : tokens) max_chars = std::max(max_chars, n_chars);
  std::vector<std::vector<std::uint64_t>> masks(max_chars + 1,
                                                std::vector<std::uint64_t>(n_words, 0));
  for (const auto& [n_chars, id] : tokens) set_bit(masks[n_chars], id);
  for (std::size_t i = 1; i < masks.size(); ++i) {
    for (std::size_t w = 0; w < n_words; ++w) masks[i][w] |= masks[i - 1][w];
  }
  return masks;
}

}  // namespace

TokenTrie::TokenTrie(std::vector<Token> tokens) {
  constexpr std::size_t max_bytes = std::numeric_limits<std::uint16_t>::max();
  std::erase_if(tokens,
                [](const Token& t) { return t.bytes.empty() || t.bytes.size() > max_bytes; });
  std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.id < b.id;
  });
  std::vector<std::uint32_t> open;  // the nodes of the last token's bytes
  std::string_view last;
  for (const Token& token : tokens) {
    std::size_t n_shared = 0;
    while (n_shared < last.size() && n_shared < token.bytes.size() &&
           last[n_shared] == token.bytes[n_shared]) {
      ++n_shared;
    }
    while (open.size() > n_shared) {
      nodes_[open.back()].end = static_cast<std::uint32_t>(nodes_.size());
      open.pop_back();
    }
    while (open.size() < token.bytes.size()) {
      const auto byte = static_cast<unsigned char>(token.bytes[open.size()]);
      open.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<std::uint32_t>(tokens_.size()),
                        static_cast<std::uint16_t>(open.size()), byte});
    }
    tokens_.push_back(token.id);
    last = token.bytes;
    max_depth_ = std::max(max_depth_, token.bytes.size());
  }
  for (const std::uint32_t node : open)
    nodes_[node].end = static_cast<std::uint32_t>(nodes_.size());
  nodes_.push_back({static_cast<std::uint32_t>(nodes_.size()),
                    static_cast<std::uint32_t>(tokens_.size()), 0, 0});
}

TokenVocabulary::TokenVocabulary(std::vector<std::string> tokens, std::vector<TokenId> end_ids,
                                 std::vector<TokenTrie::Token> plain,
                                 std::vector<TokenTrie::Token> others)
    : tokens_(std::move(tokens)),
      end_ids_(std::move(end_ids)),
      plain_(std::move(plain)),
      others_(std::move(others)),
      closing_({}),
      n_chars_(tokens_.size(), 0) {
  sort_by_string();
}

void TokenVocabulary::sort_by_string() {
  const Dfa character = string_character();
  std::vector<std::pair<std::uint32_t, TokenId>> plain, inside;
  std::vector<TokenTrie::Token> closing;
  for (const TokenTrie* trie : {&plain_, &others_}) {
    for (const TokenId id : trie->tokens()) {
      const StringToken token = read_in_string(character, bytes(id));
      n_chars_[static_cast<std::size_t>(id)] = token.n_chars;
      if (token.kind == StringToken::Kind::inside) inside.emplace_back(token.n_chars, id);
      if (token.kind == StringToken::Kind::closing) {
        closing.push_back({bytes(id).substr(token.quote_at), id});
      }
      if (trie == &plain_) plain.emplace_back(token.n_chars, id);
    }
  }
  plain_masks_ = masks_by_chars(plain, n_mask_words());
  inside_masks_ = masks_by_chars(inside, n_mask_words());
  closing_ = TokenTrie(std::move(closing));
}

Result<std::shared_ptr<const TokenVocabulary>> TokenVocabulary::create(
    std::vector<std::string> tokens, std::vector<TokenId> end_ids) {
  std::sort(end_ids.begin(), end_ids.end());
  const auto n_tokens = static_cast<TokenId>(tokens.size());
  if (!end_ids.empty() && (end_ids.front() < 0 || end_ids.back() >= n_tokens)) {
    return Error("an end token is outside the vocabulary of " + std::to_string(n_tokens) +
                 " tokens");
  }
  for (const TokenId id : end_ids) tokens[static_cast<std::size_t>(id)].clear();

  std::vector<char> has_byte(256, 0);
  for (const std::string& token : tokens) {
    if (token.size() == 1) has_byte[static_cast<unsigned char>(token[0])] = 1;
  }
  for (int byte = ' '; byte <= '~'; ++byte) {
    if (has_byte[static_cast<std::size_t>(byte)]) continue;
    return Error("the vocabulary has no token for '" + std::string(1, static_cast<char>(byte)) +
                 "' alone; JSON output needs one for every printable ASCII character");
  }
  // A token may end inside a character only if any continuation can follow.
  const bool has_continuations = std::all_of(has_byte.begin() + 0x80, has_byte.begin() + 0xC0,
                                             [](char has) { return has != 0; });
  std::vector<std::string> owned = std::move(tokens);
  std::vector<TokenTrie::Token> plain, others;
  for (TokenId id = 0; id < n_tokens; ++id) {
    const std::string& bytes = owned[static_cast<std::size_t>(id)];
    if (bytes.empty()) continue;
    if (is_plain_text(bytes)) {
      plain.push_back({bytes, id});
    } else if (has_continuations || utf8_valid_bytes(bytes) == bytes.size()) {
      others.push_back({bytes, id});
    }
  }
  return std::shared_ptr<const TokenVocabulary>(new TokenVocabulary(
      std::move(owned), std::move(end_ids), std::move(plain), std::move(others)));
}

Result<std::shared_ptr<const TokenVocabulary>> TokenVocabulary::create(
    const Tokenizer& tokenizer, std::span<const std::string_view> markers) {
  std::vector<std::string> tokens;
  for (TokenId id = 0; id < tokenizer.n_vocab(); ++id) {
    const std::string_view bytes = tokenizer.piece(id);
    const bool is_text = !tokenizer.is_special(id) ||
                         std::find(markers.begin(), markers.end(), bytes) != markers.end();
    tokens.emplace_back(is_text ? bytes : std::string_view());
  }
  return create(std::move(tokens), {tokenizer.end_ids().begin(), tokenizer.end_ids().end()});
}

std::string_view TokenVocabulary::bytes(TokenId id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size()) return {};
  return tokens_[static_cast<std::size_t>(id)];
}

bool TokenVocabulary::is_end(TokenId id) const {
  return std::binary_search(end_ids_.begin(), end_ids_.end(), id);
}

std::span<const std::uint64_t> TokenVocabulary::plain_of(std::uint32_t max_chars) const {
  return plain_masks_[std::min<std::size_t>(max_chars, plain_masks_.size() - 1)];
}

std::span<const std::uint64_t> TokenVocabulary::inside_of(std::uint32_t max_chars) const {
  return inside_masks_[std::min<std::size_t>(max_chars, inside_masks_.size() - 1)];
}

}  // namespace lowbit

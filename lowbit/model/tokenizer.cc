// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <unordered_map>

#include "lowbit/model/byte_alphabet.h"
#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

// Bpe counts bytes of a piece in 32 bits; longer pieces are cut here.
constexpr std::size_t max_piece_bytes = std::size_t{1} << 30;

bool is_added(TokenKind kind) {
  return kind == TokenKind::control || kind == TokenKind::user_defined ||
         kind == TokenKind::unknown;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0; });
}

void append_nfc(std::string_view text, std::string& to) {
  while (!text.empty()) {
    const std::size_t n_valid = utf8_valid_bytes(text);
    utf8proc_uint8_t* composed = nullptr;
    const utf8proc_ssize_t n_composed =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                     static_cast<utf8proc_ssize_t>(n_valid), &composed,
                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
    if (n_composed >= 0) {
      to.append(reinterpret_cast<const char*>(composed), static_cast<std::size_t>(n_composed));
    } else {
      to += text.substr(0, n_valid);
    }
    text.remove_prefix(n_valid);
    if (text.empty()) break;
    const std::size_t n_invalid = utf8_front(text).n_bytes;
    to += text.substr(0, n_invalid);
    text.remove_prefix(n_invalid);
  }
}

std::string nfc_of(std::string_view text) {
  std::string normalized;
  append_nfc(text, normalized);
  return normalized;
}

// The ranges inside [begin, end), counted from begin.
std::vector<TrustedRange> clip(std::span<const TrustedRange> ranges, std::size_t begin,
                               std::size_t end) {
  std::vector<TrustedRange> clipped;
  auto range = std::partition_point(ranges.begin(), ranges.end(),
                                    [&](const TrustedRange& r) { return r.end <= begin; });
  for (; range != ranges.end() && range->begin < end; ++range) {
    clipped.push_back({std::max(range->begin, begin) - begin, std::min(range->end, end) - begin});
  }
  return clipped;
}

// Each stretch of equal trust by itself, so that the ranges stay known (and no user text can change
// a character of the template).
std::string to_nfc(std::string_view text, std::vector<TrustedRange>& ranges) {
  std::string normalized;
  std::size_t done = 0;
  for (TrustedRange& range : ranges) {
    append_nfc(text.substr(done, range.begin - done), normalized);
    const std::size_t begin = normalized.size();
    append_nfc(text.substr(range.begin, range.end - range.begin), normalized);
    done = range.end;
    range = {begin, normalized.size()};
  }
  append_nfc(text.substr(done), normalized);
  return normalized;
}

Status check(const TokenizerData& data) {
  if (data.tokens.empty()) return Error("the tokenizer has no tokens");
  if (data.tokens.size() > static_cast<std::size_t>(INT32_MAX)) {
    return Error("the tokenizer has more than 2^31 tokens");
  }
  const auto n_tokens = static_cast<TokenId>(data.tokens.size());
  if (!data.kinds.empty() && data.kinds.size() != data.tokens.size()) {
    return Error("the tokenizer has " + std::to_string(n_tokens) + " tokens but " +
                 std::to_string(data.kinds.size()) + " token types");
  }
  const auto is_outside = [&](TokenId id) { return id < 0 || id >= n_tokens; };
  const auto outside = [&](std::string_view what, TokenId id) {
    return Error(std::string(what) + " is " + std::to_string(id) + ", outside the vocabulary of " +
                 std::to_string(n_tokens) + " tokens");
  };
  const std::pair<std::string_view, std::optional<TokenId>> named_ids[] = {
      {"the BOS token", data.bos},
      {"the EOS token", data.eos},
      {"the padding token", data.pad},
      {"the unknown token", data.unknown}};
  for (const auto& [what, id] : named_ids) {
    if (id && is_outside(*id)) return outside(what, *id);
  }
  for (const TokenId id : data.end_ids) {
    if (is_outside(id)) return outside("an end token", id);
  }
  for (const AddedToken& token : data.added) {
    if (is_outside(token.id)) return outside("an added token", token.id);
  }
  if (data.add_bos && !data.bos) {
    return Error("the tokenizer asks for a BOS token in front of the prompt but names none");
  }
  return ok();
}

Result<Pretokenizer> make_pretokenizer(const TokenizerData& data) {
  if (data.pre.empty()) return Pretokenizer::create(data.steps);
  const NamedPretokenizer* row = find_pretokenizer(data.pre);
  if (row == nullptr) {
    return Error("the pre-tokenizer \"" + data.pre +
                 "\" is not known; lowbit/model/pretokenizer_list.cc lists those that are");
  }
  std::vector<PretokenizerStep> steps;
  for (const std::string_view regex : row->regexes) steps.push_back({.regex = std::string(regex)});
  return Pretokenizer::create(steps);
}

// Indexes what merging may reach: normal tokens written in the byte alphabet (others stand for
// their own characters), and added tokens that are plain words.
Vocabulary make_vocabulary(const TokenizerData& data) {
  std::size_t n_bytes = 0;
  for (const std::string& token : data.tokens) n_bytes += token.size();
  Vocabulary vocabulary(data.tokens.size(), n_bytes);
  std::string bytes;
  for (std::size_t i = 0; i < data.tokens.size(); ++i) {
    const std::string& token = data.tokens[i];
    const TokenKind kind = data.kinds[i];
    bytes.clear();
    bool is_reachable = false;
    if (kind == TokenKind::normal || kind == TokenKind::byte) {
      is_reachable = append_as_bytes(token, bytes);
    } else if (kind == TokenKind::user_defined && !is_markup(token)) {
      is_reachable = append_as_bytes(token, bytes) && bytes == token;
    }
    vocabulary.add(is_reachable ? bytes : token);
    if (is_reachable && !bytes.empty()) vocabulary.index(static_cast<TokenId>(i));
  }
  return vocabulary;
}

Bpe make_bpe(const TokenizerData& data, const Vocabulary& vocabulary) {
  std::array<TokenId, n_byte_values> byte_tokens;
  for (std::size_t byte = 0; byte < n_byte_values; ++byte) {
    const char text = static_cast<char>(byte);
    byte_tokens[byte] = vocabulary.find({&text, 1}).value_or(data.unknown.value_or(no_token));
  }
  std::vector<Bpe::Merge> merges;
  merges.reserve(data.merges.size());
  std::string joined;
  for (const auto& [left, right] : data.merges) {
    joined.clear();
    if (!append_as_bytes(left, joined)) continue;
    const std::size_t n_left = joined.size();
    if (!append_as_bytes(right, joined)) continue;
    const std::string_view both = joined;
    const auto left_id = vocabulary.find(both.substr(0, n_left));
    const auto right_id = vocabulary.find(both.substr(n_left));
    const auto result = vocabulary.find(both);
    if (left_id && right_id && result) merges.push_back({*left_id, *right_id, *result});
  }
  return Bpe::create(byte_tokens, merges);
}

// The added tokens that are looked for in the normalized text, or those for the raw one.
AddedTokens added_tokens(const TokenizerData& data, bool normalized) {
  std::unordered_map<TokenId, const AddedToken*> given;
  for (const AddedToken& token : data.added) given.emplace(token.id, &token);
  std::vector<AddedToken> added;
  for (std::size_t i = 0; i < data.tokens.size(); ++i) {
    if (!is_added(data.kinds[i])) continue;
    AddedToken token;
    token.id = static_cast<TokenId>(i);
    if (const auto flags = given.find(token.id); flags != given.end()) token = *flags->second;
    if (token.normalized != normalized) continue;
    token.content = data.tokens[i];
    token.markup = data.kinds[i] != TokenKind::user_defined || is_markup(token.content);
    if (normalized && data.nfc) token.content = nfc_of(token.content);
    added.push_back(std::move(token));
  }
  return AddedTokens(std::move(added));
}

}  // namespace

struct Tokenizer::Work {
  std::vector<TokenId>& ids;
  Pretokenizer::Pieces pieces{};
  Bpe::Scratch bpe{};
  std::string bytes{};
};

Result<Tokenizer> Tokenizer::create(TokenizerData data) {
  data.kinds.resize(data.kinds.empty() ? data.tokens.size() : data.kinds.size(), TokenKind::normal);
  if (auto checked = check(data); !checked) return std::move(checked).error().in("tokenizer");
  auto pretokenizer = make_pretokenizer(data);
  if (!pretokenizer) return std::move(pretokenizer).error().in("tokenizer");
  return Tokenizer(data, *std::move(pretokenizer));
}

Tokenizer::Tokenizer(const TokenizerData& data, Pretokenizer pretokenizer)
    : kinds_(data.kinds),
      vocabulary_(make_vocabulary(data)),
      bpe_(make_bpe(data, vocabulary_)),
      pretokenizer_(std::move(pretokenizer)),
      raw_added_(added_tokens(data, /*normalized=*/false)),
      normalized_added_(added_tokens(data, /*normalized=*/true)),
      end_ids_(data.end_ids),
      bos_(data.bos),
      eos_(data.eos),
      pad_(data.pad),
      add_bos_(data.add_bos),
      ignore_merges_(data.ignore_merges),
      nfc_(data.nfc) {
  pieces_are_letters_ =
      data.pre.empty() && std::any_of(data.steps.begin(), data.steps.end(), [](const auto& step) {
        return step.kind == PretokenizerStep::Kind::byte_alphabet;
      });
  if (eos_) end_ids_.push_back(*eos_);
  std::sort(end_ids_.begin(), end_ids_.end());
  end_ids_.erase(std::unique(end_ids_.begin(), end_ids_.end()), end_ids_.end());
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_bos,
                                       bool parse_special) const {
  std::vector<TokenId> ids;
  Work work{ids};
  const TrustedRange whole{0, text.size()};
  encode_text(text, std::span(&whole, parse_special ? 1 : 0), work);
  if (add_bos && add_bos_ && (ids.empty() || ids.front() != *bos_)) ids.insert(ids.begin(), *bos_);
  return ids;
}

std::vector<TokenId> Tokenizer::encode(const MarkedText& text, bool add_bos) const {
  std::string joined;
  std::vector<TrustedRange> trusted;
  for (const MarkedText::Span& span : text.spans) {
    const std::size_t begin = joined.size();
    joined += span.text;
    if (!span.trusted || span.text.empty()) continue;
    if (!trusted.empty() && trusted.back().end == begin) {
      trusted.back().end = joined.size();
    } else {
      trusted.push_back({begin, joined.size()});
    }
  }
  std::vector<TokenId> ids;
  Work work{ids};
  encode_text(joined, trusted, work);
  if (add_bos && add_bos_ && (ids.empty() || ids.front() != *bos_)) ids.insert(ids.begin(), *bos_);
  return ids;
}

void Tokenizer::encode_text(std::string_view text, std::span<const TrustedRange> trusted,
                            Work& work) const {
  std::vector<AddedTokens::Segment> segments;
  raw_added_.split(text, trusted, segments);
  for (const auto& [begin, end, id] : segments) {
    const std::string_view part = text.substr(begin, end - begin);
    if (id != no_token) {
      work.ids.push_back(id);
    } else if (nfc_ || !normalized_added_.empty()) {
      encode_normalized(part, clip(trusted, begin, end), work);
    } else {
      encode_plain(part, work);
    }
  }
}

void Tokenizer::encode_normalized(std::string_view text, std::vector<TrustedRange> trusted,
                                  Work& work) const {
  std::string normalized;
  if (nfc_ && !is_ascii(text)) {
    normalized = to_nfc(text, trusted);
    text = normalized;
  }
  std::vector<AddedTokens::Segment> segments;
  normalized_added_.split(text, trusted, segments);
  for (const auto& [begin, end, id] : segments) {
    if (id != no_token) {
      work.ids.push_back(id);
    } else {
      encode_plain(text.substr(begin, end - begin), work);
    }
  }
}

void Tokenizer::encode_plain(std::string_view text, Work& work) const {
  while (!text.empty()) {
    const std::size_t n_valid = utf8_valid_bytes(text);
    pretokenizer_.split(text.substr(0, n_valid), work.pieces);
    for (const auto& [begin, end] : work.pieces.pieces) {
      std::string_view piece = work.pieces.text.substr(begin, end - begin);
      if (pieces_are_letters_) {
        work.bytes.clear();
        append_as_bytes(piece, work.bytes);
        piece = work.bytes;
      }
      encode_piece(piece, work);
    }
    text.remove_prefix(n_valid);

    std::size_t n_invalid = 0;
    while (n_invalid < text.size() && utf8_front(text.substr(n_invalid)).kind != Utf8Kind::valid) {
      n_invalid += utf8_front(text.substr(n_invalid)).n_bytes;
    }
    encode_piece(text.substr(0, n_invalid), work);
    text.remove_prefix(n_invalid);
  }
}

void Tokenizer::encode_piece(std::string_view piece, Work& work) const {
  if (ignore_merges_) {
    if (const auto whole = vocabulary_.find(piece)) {
      work.ids.push_back(*whole);
      return;
    }
  }
  for (std::size_t begin = 0; begin < piece.size(); begin += max_piece_bytes) {
    bpe_.encode(piece.substr(begin, max_piece_bytes), work.ids, work.bpe);
  }
}

std::string Tokenizer::decode_bytes(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special || !is_special(id)) bytes += piece(id);
  }
  return bytes;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes = decode_bytes(ids, skip_special);
  return utf8_take(bytes, /*final=*/true);
}

bool Tokenizer::is_special(TokenId id) const {
  if (id < 0 || id >= n_vocab()) return false;
  const TokenKind kind = kinds_[static_cast<std::size_t>(id)];
  return kind == TokenKind::control || kind == TokenKind::unknown;
}

bool Tokenizer::is_end(TokenId id) const {
  return std::binary_search(end_ids_.begin(), end_ids_.end(), id);
}

std::optional<TokenId> Tokenizer::id_of(std::string_view token) const {
  for (const AddedTokens* added : {&raw_added_, &normalized_added_}) {
    if (const AddedToken* found = added->find(token)) return found->id;
  }
  return vocabulary_.find(token);
}

std::string StreamDecoder::push(TokenId id) {
  if (!skip_special_ || !tokenizer_->is_special(id)) held_ += tokenizer_->piece(id);
  return utf8_take(held_, /*final=*/false);
}

std::string StreamDecoder::flush() {
  return utf8_take(held_, /*final=*/true);
}

}  // namespace lowbit

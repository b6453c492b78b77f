// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back: byte-level byte-pair encoding, made from whatever file the model came
// in. The road of a text: added tokens are cut out, the rest is normalized (NFC, if the model says
// so), cut into pieces, and each piece is merged. Bytes that are not UTF-8 are a piece of their own
// and become byte tokens, so that encoding is total and decode_bytes(encode(text)) == text wherever
// the model itself is lossless.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/model/added_tokens.h"
#include "lowbit/model/bpe.h"
#include "lowbit/model/marked_text.h"
#include "lowbit/model/pretokenizer.h"
#include "lowbit/model/vocabulary.h"

namespace lowbit {

/// GGUF's token_type, which starts at 1.
enum class TokenKind : std::uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

/// Everything a tokenizer is made from. Loaders: tokenizer_load.h.
struct TokenizerData {
  std::string pre;                      // name of the pre-tokenizer (pretokenizer_list); if empty,
  std::vector<PretokenizerStep> steps;  // these
  std::vector<std::string> tokens;      // by id; normal ones in the byte alphabet (byte_alphabet.h)
  std::vector<TokenKind> kinds;         // one per token; empty: all normal
  std::vector<std::pair<std::string, std::string>> merges;  // best first, in the byte alphabet
  /// Control and user_defined tokens are added tokens anyway; an entry here (its content is
  /// ignored) gives one its flags.
  std::vector<AddedToken> added;
  std::optional<TokenId> bos, eos, pad;
  std::optional<TokenId> unknown;  // stands for a byte without a token; if absent, that is left out
  std::vector<TokenId> end_ids;    // every id that ends a generation; eos need not be repeated
  bool add_bos = false;            // a prompt begins with bos
  bool ignore_merges = false;      // a piece that is a token as a whole is not merged from bytes
  bool nfc = false;
};

class Tokenizer {
 public:
  /// Merges that name unknown tokens are ignored, and so are those that would build a token that is
  /// not normal; of tokens with the same text the first counts. An Error for ids outside the
  /// vocabulary, an unknown `pre`, a regular expression that does not compile.
  static Result<Tokenizer> create(TokenizerData data);

  /// Ids of text. With parse_special all of it is trusted: special tokens in it are recognised.
  /// Text of users is passed with false and never becomes one (is_markup says what is one).
  /// add_bos puts BOS first if the model asks for it and the text does not begin with it.
  std::vector<TokenId> encode(std::string_view text, bool add_bos, bool parse_special) const;
  /// The spans are tokenized as one text (merges cross their borders), but special tokens are
  /// recognised only inside trusted ones.
  std::vector<TokenId> encode(const MarkedText& text, bool add_bos) const;

  /// The bytes of one token, perhaps part of a character; empty for an id outside the vocabulary.
  std::string_view piece(TokenId id) const { return vocabulary_.bytes(id); }
  std::string decode_bytes(std::span<const TokenId> ids, bool skip_special = true) const;
  /// The same as valid UTF-8: bytes that are no character become U+FFFD.
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  std::int64_t n_vocab() const { return static_cast<std::int64_t>(kinds_.size()); }
  /// True for control tokens: decoding leaves them out.
  bool is_special(TokenId id) const;
  bool is_end(TokenId id) const;
  std::span<const TokenId> end_ids() const { return end_ids_; }
  std::optional<TokenId> bos() const { return bos_; }
  std::optional<TokenId> eos() const { return eos_; }
  std::optional<TokenId> pad() const { return pad_; }
  bool adds_bos() const { return add_bos_; }
  /// The id of an added token ("<|im_end|>") or of a normal token by its bytes (" the").
  std::optional<TokenId> id_of(std::string_view token) const;

 private:
  struct Work;
  Tokenizer(const TokenizerData& data, Pretokenizer pretokenizer);
  void encode_text(std::string_view text, std::span<const TrustedRange> trusted, Work& work) const;
  void encode_normalized(std::string_view text, std::vector<TrustedRange> trusted,
                         Work& work) const;
  void encode_plain(std::string_view text, Work& work) const;
  void encode_piece(std::string_view piece, Work& work) const;

  std::vector<TokenKind> kinds_;
  Vocabulary vocabulary_;
  Bpe bpe_;
  Pretokenizer pretokenizer_;
  bool pieces_are_letters_ = false;  // the pre-tokenizer ends in the byte alphabet
  AddedTokens raw_added_, normalized_added_;
  std::vector<TokenId> end_ids_;  // sorted
  std::optional<TokenId> bos_, eos_, pad_;
  bool add_bos_ = false, ignore_merges_ = false, nfc_ = false;
};

/// Decodes a stream of tokens: a character that is split over several is held back until it is
/// whole. What push and flush return is valid UTF-8.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}
  std::string push(TokenId id);
  /// What is held back, as U+FFFD.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string held_;
};

}  // namespace lowbit

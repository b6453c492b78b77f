// SPDX-License-Identifier: Apache-2.0
// Cuts text into the pieces inside which byte-pair encoding merges. A pre-tokenizer is a list of
// steps, each applied to every piece that the step before it left; most steps are one regular
// expression. PCRE2 runs them: std::regex recurses and crashes on long input, RE2 has no (?!\S).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"

namespace lowbit {

/// What becomes of the matches of a split; the text between matches is a piece in every case.
enum class SplitBehavior : std::uint8_t {
  isolated,              // each match is a piece
  removed,               // matches vanish
  merged_with_previous,  // a match ends the piece before it
  merged_with_next,      // a match begins the piece after it
  contiguous,            // neighbouring matches are one piece
};

struct PretokenizerStep {
  enum class Kind : std::uint8_t {
    split,
    prefix_space,   // puts a space before every piece that does not begin with one
    byte_alphabet,  // rewrites bytes as letters (byte_alphabet.h); later steps see the letters
  };
  Kind kind = Kind::split;
  std::string regex{};
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // matches and the text between them change roles
};

/// A row of the list of pre-tokenizers that GGUF files name in tokenizer.ggml.pre.
struct NamedPretokenizer {
  std::string_view names;                 // separated by spaces
  std::vector<std::string_view> regexes;  // one isolating split each
  // What GGUF files leave to the name:
  bool ignore_merges = false;
  bool add_bos = false;
};
std::span<const NamedPretokenizer> pretokenizer_list();
/// nullptr if no row has the name.
const NamedPretokenizer* find_pretokenizer(std::string_view name);
/// The split of GPT-2, which tokenizer.json calls "ByteLevel".
std::string_view gpt2_split_regex();

class Pretokenizer {
  struct Step;
  struct Matcher;

 public:
  struct Piece {
    std::size_t begin, end;  // bytes of Pieces::text
  };
  struct Pieces {
    std::string_view text;  // what was passed in, or `rewritten`
    std::vector<Piece> pieces;
    std::string rewritten;
    // Scratch that is kept from call to call:
    std::vector<Piece> next;
    std::shared_ptr<Matcher> matcher;
  };

  /// An Error if a regular expression does not compile.
  static Result<Pretokenizer> create(std::span<const PretokenizerStep> steps);
  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  /// Cuts text, which must be valid UTF-8, into `pieces`; none is empty. Total: where a regular
  /// expression gives up (its step limit is a guard against hostile files), the rest of the piece
  /// it was working on stays whole. pieces.text refers to `text` or to pieces.rewritten.
  void split(std::string_view text, Pieces& pieces) const;

 private:
  explicit Pretokenizer(std::vector<Step> steps);
  static void split_piece(const Step& step, std::string_view text, Piece piece, Matcher& matcher,
                          std::vector<Piece>& pieces);

  std::vector<Step> steps_;
};

}  // namespace lowbit

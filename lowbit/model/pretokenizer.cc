// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "lowbit/model/byte_alphabet.h"
#include "lowbit/model/utf8.h"

namespace lowbit {
namespace {

// A stack for expressions that recurse (nested groups on a long run) and a step limit, so that an
// expression from a hostile file cannot run for hours.
constexpr std::size_t jit_stack_start_bytes = 32 << 10;
constexpr std::size_t jit_stack_max_bytes = 16 << 20;
constexpr std::uint32_t match_limit = 4'000'000;

template <auto free_function>
struct Free {
  template <class T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
template <class T, auto free_function>
using Owned = std::unique_ptr<T, Free<free_function>>;
using Code = Owned<pcre2_code, pcre2_code_free>;

// Unicode's White_Space. PCRE2's \s has U+180E besides, which lost that property in Unicode 6.3;
// the engines that made the vocabularies know that.
constexpr std::string_view white_space =
    R"(\t-\r\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

/// The expression with \s, and \S outside of classes, spelled out.
std::string with_unicode_white_space(std::string_view regex) {
  std::string spelled;
  bool in_class = false;
  for (std::size_t i = 0; i < regex.size(); ++i) {
    const std::string_view rest = regex.substr(i);
    if (rest.starts_with("\\s") || (rest.starts_with("\\S") && !in_class)) {
      spelled += in_class ? "" : rest[1] == 's' ? "[" : "[^";
      spelled += white_space;
      spelled += in_class ? "" : "]";
      ++i;
      continue;
    }
    if (rest.starts_with('\\') && rest.size() > 1) {
      spelled += rest.substr(0, 2);
      ++i;
      continue;
    }
    if (rest[0] == '[') in_class = true;
    if (rest[0] == ']') in_class = false;
    spelled += rest[0];
  }
  return spelled;
}

PCRE2_SPTR as_pcre(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

Result<Code> compile(std::string_view regex, std::uint32_t options) {
  const std::string spelled = with_unicode_white_space(regex);
  int error = 0;
  PCRE2_SIZE at = 0;
  Code code(pcre2_compile(as_pcre(spelled), spelled.size(), PCRE2_UTF | PCRE2_UCP | options, &error,
                          &at, nullptr));
  if (!code) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    return Error("the regular expression \"" + std::string(regex) + "\" does not compile: " +
                 reinterpret_cast<const char*>(message.data()) + " at byte " + std::to_string(at));
  }
  // Without a JIT (or memory for it) the interpreter runs: same matches, slower.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

struct Pretokenizer::Step {
  PretokenizerStep::Kind kind;
  SplitBehavior behavior;
  bool invert;
  // The same expression twice. Most positions of a text begin a match, and there the anchored form
  // is five times as fast (asked for at match time, anchoring turns the JIT off); `anywhere` finds
  // the next match when there is none here.
  Code here, anywhere;
};

// What one thread needs to match.
struct Pretokenizer::Matcher {
  Owned<pcre2_match_data, pcre2_match_data_free> data{pcre2_match_data_create(1, nullptr)};
  Owned<pcre2_match_context, pcre2_match_context_free> context{pcre2_match_context_create(nullptr)};
  Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack{
      pcre2_jit_stack_create(jit_stack_start_bytes, jit_stack_max_bytes, nullptr)};

  Matcher() {
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    pcre2_set_match_limit(context.get(), match_limit);
  }

  std::optional<Piece> run(const Code& code, std::string_view text, std::size_t from) {
    int n_groups = pcre2_match(code.get(), as_pcre(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                               data.get(), context.get());
    if (n_groups == PCRE2_ERROR_JIT_STACKLIMIT) {
      n_groups = pcre2_match(code.get(), as_pcre(text), text.size(), from,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), context.get());
    }
    if (n_groups < 0) return std::nullopt;
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
    return Piece{std::min<std::size_t>(ends[0], ends[1]), ends[1]};
  }

  /// The first match that begins at or after `from`.
  std::optional<Piece> find(const Step& step, std::string_view text, std::size_t from) {
    if (auto match = run(step.here, text, from)) return match;
    return run(step.anywhere, text, from);
  }
};

Pretokenizer::Pretokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

Result<Pretokenizer> Pretokenizer::create(std::span<const PretokenizerStep> steps) {
  std::vector<Step> compiled;
  for (const PretokenizerStep& step : steps) {
    compiled.push_back({step.kind, step.behavior, step.invert, nullptr, nullptr});
    if (step.kind != PretokenizerStep::Kind::split) continue;
    if (step.regex.find("&&[") != std::string::npos) {
      return Error("the regular expression \"" + step.regex +
                   "\" intersects character classes with &&, which this build cannot do");
    }
    auto here = compile(step.regex, PCRE2_ANCHORED);
    if (!here) return std::move(here).error().in("pre-tokenizer");
    auto anywhere = compile(step.regex, 0);
    if (!anywhere) return std::move(anywhere).error().in("pre-tokenizer");
    compiled.back().here = *std::move(here);
    compiled.back().anywhere = *std::move(anywhere);
  }
  return Pretokenizer(std::move(compiled));
}

void Pretokenizer::split(std::string_view text, Pieces& pieces) const {
  if (!pieces.matcher) pieces.matcher = std::make_shared<Matcher>();
  pieces.text = text;
  pieces.pieces.clear();
  if (!text.empty()) pieces.pieces.push_back({0, text.size()});

  const auto rewrite = [&](auto append) {
    std::string rewritten;
    for (Piece& piece : pieces.pieces) {
      const std::size_t begin = rewritten.size();
      append(pieces.text.substr(piece.begin, piece.end - piece.begin), rewritten);
      piece = {begin, rewritten.size()};
    }
    pieces.rewritten = std::move(rewritten);
    pieces.text = pieces.rewritten;
  };
  for (const Step& step : steps_) {
    switch (step.kind) {
      case PretokenizerStep::Kind::split:
        pieces.next.clear();
        for (const Piece& piece : pieces.pieces) {
          split_piece(step, pieces.text, piece, *pieces.matcher, pieces.next);
        }
        std::swap(pieces.pieces, pieces.next);
        break;
      case PretokenizerStep::Kind::prefix_space:
        rewrite([](std::string_view piece, std::string& to) {
          if (!piece.starts_with(' ')) to += ' ';
          to += piece;
        });
        break;
      case PretokenizerStep::Kind::byte_alphabet:
        rewrite([](std::string_view piece, std::string& to) { append_as_letters(piece, to); });
        break;
    }
  }
}

void Pretokenizer::split_piece(const Step& step, std::string_view whole_text, Piece piece,
                               Matcher& matcher, std::vector<Piece>& pieces) {
  // The expression sees this piece alone: ^, $ and lookarounds end at its borders.
  const std::string_view text = whole_text.substr(piece.begin, piece.end - piece.begin);
  bool last_was_cut = false;
  const auto add = [&](std::size_t begin, std::size_t end, bool is_match) {
    if (begin == end) return;
    begin += piece.begin;
    end += piece.begin;
    const bool is_cut = is_match != step.invert;
    const bool glue =
        (step.behavior == SplitBehavior::merged_with_previous && is_cut && !last_was_cut) ||
        (step.behavior == SplitBehavior::merged_with_next && !is_cut && last_was_cut) ||
        (step.behavior == SplitBehavior::contiguous && is_cut == last_was_cut);
    last_was_cut = is_cut;
    if (step.behavior == SplitBehavior::removed && is_cut) return;
    if (glue && !pieces.empty() && pieces.back().end == begin && begin != piece.begin) {
      pieces.back().end = end;
    } else {
      pieces.push_back({begin, end});
    }
  };

  std::size_t done = 0, from = 0;
  while (from < text.size()) {
    const auto match = matcher.find(step, text, from);
    if (!match) break;
    add(done, match->begin, false);
    add(match->begin, match->end, true);
    done = match->end;
    // An empty match cuts where it stands; the search goes on one character further.
    from = match->end > match->begin ? match->end
           : done < text.size()      ? done + utf8_front(text.substr(done)).n_bytes
                                     : text.size();
  }
  add(done, text.size(), false);
}

}  // namespace lowbit

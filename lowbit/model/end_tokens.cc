// SPDX-License-Identifier: Apache-2.0
// Files say in one place which token ends a text, and rarely that another one ends a turn. As the
// other runtimes do, we know those by their names.
#include <algorithm>
#include <array>
#include <string_view>

#include "lowbit/model/tokenizer_load.h"

namespace lowbit {
namespace {

// Names of tokens at which generation ends: of turns (chat), of texts, and of files (code models).
constexpr std::array<std::string_view, 18> end_names = {
    "<|eot_id|>",    "<|im_end|>",    "<|end|>",
    "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|eom_id|>",    "<EOT>",         "<|EOT|>",
    "[EOT]",         "[EOS]",         "<end_of_utterance>",
    "<|fim_pad|>",   "<fim-pad>",     "<fim_pad>",
    "<|repo_name|>", "<|file_sep|>",  "<｜end▁of▁sentence｜>"};

}  // namespace

void find_end_tokens(TokenizerData& data) {
  data.kinds.resize(data.tokens.size(), TokenKind::normal);
  for (std::size_t i = 0; i < data.tokens.size(); ++i) {
    const std::string_view token = data.tokens[i];
    if (!is_markup(token) ||
        std::find(end_names.begin(), end_names.end(), token) == end_names.end()) {
      continue;
    }
    data.kinds[i] = TokenKind::control;
    data.end_ids.push_back(static_cast<TokenId>(i));
  }
}

}  // namespace lowbit

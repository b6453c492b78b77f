// SPDX-License-Identifier: Apache-2.0
// Text that remembers which of its parts were written by the model's chat template (trusted) and
// which came from users, tools or documents. Only trusted text may become special tokens: a user
// who types
// "<|im_end|>" must not end the turn. A plain string cannot carry that distinction to the
// tokenizer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lowbit {

struct MarkedText {
  struct Span {
    std::string text;
    bool trusted;
  };
  std::vector<Span> spans;  // neighbours differ in `trusted`; none is empty

  void append(std::string_view text, bool trusted) {
    if (text.empty()) return;
    if (spans.empty() || spans.back().trusted != trusted) spans.push_back({std::string(), trusted});
    spans.back().text += text;
  }
  std::string str() const {
    std::string joined;
    for (const Span& span : spans) joined += span.text;
    return joined;
  }
};

}  // namespace lowbit

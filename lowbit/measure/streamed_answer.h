// SPDX-License-Identifier: Apache-2.0
// One streamed answer of an OpenAI-compatible server, read as its bytes arrive: what of it is
// tokens, when they came, and what went wrong. No clock and no socket of its own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lowbit/measure/event_stream.h"
#include "lowbit/measure/load_report.h"

namespace lowbit {

class StreamedAnswer {
 public:
  /// Bytes of the body; `seconds` since the request was sent.
  void feed(std::string_view bytes, double seconds);

  /// After the body has ended. Tokens are counted by the server's usage, where it sends none by
  /// chunks with text; prompts likewise, else they are `n_planned_input`. An answer that neither
  /// said [DONE] nor why it ended broke off, which is an error.
  RequestRecord record(std::int64_t n_planned_input) const;

  const std::string& text() const { return text_; }

 private:
  void on_event(std::string_view data);

  EventStream events_;
  RequestRecord record_;
  std::string text_;
  double now_ = 0, last_token_ = 0;
  std::int64_t n_chunks_ = 0;  // with text
  bool has_ended_ = false;
};

/// What a body that is no stream says: the message of an error, or its beginning.
std::string refusal_in(std::string_view body);

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
// What a client is told when a request fails: OpenAI's error body and a status that makes its
// clients do the right thing (they repeat 408, 409, 429 and 5xx by themselves).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lowbit/server/http.h"
#include "lowbit/server/json_body.h"

namespace lowbit {

struct ApiError {
  int status = 400;
  std::string message;     // one sentence: what, where, what to do
  std::string param = {};  // the field at fault
  std::string code = {};   // for programs: "context_length_exceeded"
  int retry_after = 0;     // seconds; 0: no such header
};

/// What went wrong, or nothing.
using Refusal = std::optional<ApiError>;

inline ApiError bad_field(std::string_view param, std::string message) {
  return {.message = std::move(message), .param = std::string(param)};
}
inline ApiError busy(std::string message) {
  return {.status = 503, .message = std::move(message), .code = "overloaded", .retry_after = 1};
}

/// {"error": {"message", "type", "param", "code"}}
Json to_json(const ApiError& error);
HttpResponse to_response(const ApiError& error);

}  // namespace lowbit

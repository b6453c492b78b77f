// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/api_error.h"

#include <array>

namespace lowbit {
namespace {

struct Kind {
  int status;
  std::string_view type;
};
constexpr std::array kinds{Kind{401, "authentication_error"}, Kind{403, "permission_error"},
                           Kind{404, "not_found_error"},      Kind{408, "timeout_error"},
                           Kind{429, "rate_limit_error"},     Kind{500, "server_error"},
                           Kind{503, "unavailable_error"}};

std::string_view type_of(int status) {
  for (const Kind& kind : kinds) {
    if (kind.status == status) return kind.type;
  }
  return "invalid_request_error";
}

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

}  // namespace

Json to_json(const ApiError& error) {
  return {{"error",
           {{"message", error.message},
            {"type", type_of(error.status)},
            {"param", text_or_null(error.param)},
            {"code", error.code.empty() ? Json(error.status) : Json(error.code)}}}};
}

HttpResponse to_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = dump(to_json(error));
  if (error.retry_after > 0) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  }
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/request_headers.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace lowbit {
namespace {

bool is_word(std::string_view text, std::string_view marks) {
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           marks.find(c) != std::string_view::npos;
  });
}

}  // namespace

std::string request_id(const HttpRequest& request, const std::function<std::string()>& make) {
  constexpr std::size_t longest = 128;
  const std::string_view given = request.header("x-request-id");
  return given.size() <= longest && is_word(given, "-_.") ? std::string(given) : make();
}

bool is_origin_allowed(std::string_view origin, std::span<const std::string> origins) {
  for (const std::string& allowed : origins) {
    if (allowed == "*" || allowed == origin) return true;
  }
  constexpr std::array<std::string_view, 3> here{"localhost", "127.0.0.1", "[::1]"};
  const std::size_t scheme_end = origin.find("://");
  if (scheme_end == std::string_view::npos) return false;
  const std::string_view place = origin.substr(scheme_end + 3);
  return std::ranges::any_of(here, [&](std::string_view host) {
    if (!place.starts_with(host)) return false;
    const std::string_view port = place.substr(host.size());
    constexpr std::string_view digits = "0123456789";
    return port.empty() ||
           (port.front() == ':' && port.find_first_not_of(digits, 1) == std::string_view::npos);
  });
}

HttpHeaders common_headers(const HttpRequest& request, std::span<const std::string> origins) {
  const std::string_view origin = request.header("origin");
  if (!is_word(origin, ":/.-_[]*") || !is_origin_allowed(origin, origins)) return {};
  return {{"Access-Control-Allow-Origin", std::string(origin)},
          {"Access-Control-Expose-Headers", "X-Request-Id"},
          {"Vary", "Origin"}};
}

HttpResponse preflight(const HttpRequest& request, std::span<const std::string> origins) {
  HttpResponse response;
  response.status = 204;
  response.content_type = "";
  response.headers = common_headers(request, origins);
  if (response.headers.empty()) {
    response.headers.emplace_back("Allow", "GET, POST, OPTIONS");
    return response;
  }
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  const std::string_view wanted = request.header("access-control-request-headers");
  response.headers.emplace_back(
      "Access-Control-Allow-Headers",
      is_word(wanted, "-_, ") ? std::string(wanted) : "authorization, content-type");
  response.headers.emplace_back("Access-Control-Max-Age", "86400");
  return response;
}

std::string field_names(std::span<const std::string> names) {
  constexpr std::size_t longest = 400;
  std::string joined;
  for (const std::string& name : names) {
    if (!is_word(name, "-_.") || joined.size() + name.size() > longest) continue;
    joined += (joined.empty() ? "" : ", ") + name;
  }
  return joined;
}

std::string percent_decoded(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size()) {
      const char* const first = text.data() + i + 1;
      const auto [last, error] = std::from_chars(first, first + 2, value, 16);
      if (error == std::errc() && last == first + 2) {
        decoded += static_cast<char>(value);
        i += 2;
        continue;
      }
    }
    decoded += text[i];
  }
  return decoded;
}

}  // namespace lowbit

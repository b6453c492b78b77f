// SPDX-License-Identifier: Apache-2.0
// What of a request's headers comes back in the answer's: request ids and CORS. Everything a client
// wrote is checked first, so that nothing of it can become a header of its own.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/server/http.h"

namespace lowbit {

/// The client's X-Request-Id if it is a plain word, otherwise one of ours.
std::string request_id(const HttpRequest& request, const std::function<std::string()>& make);

/// Pages on this machine may read answers, and those of the listed origins ("*": all).
bool is_origin_allowed(std::string_view origin, std::span<const std::string> origins);
/// CORS headers for requests that come from a page.
HttpHeaders common_headers(const HttpRequest& request, std::span<const std::string> origins);
/// The answer to OPTIONS.
HttpResponse preflight(const HttpRequest& request, std::span<const std::string> origins);

/// Names for one header: as many as fit, what is no plain word left out.
std::string field_names(std::span<const std::string> names);
std::string percent_decoded(std::string_view text);

}  // namespace lowbit

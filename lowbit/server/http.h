// SPDX-License-Identifier: Apache-2.0
// One HTTP exchange as the rest of the server sees it: a request that is there as a whole, and a
// way to answer it at once or piece by piece. No library shows through, so that routes are tested
// without a socket and the library stays in one file (http_server.cc).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lowbit {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method, path, query;  // path: without the query, as it was sent
  HttpHeaders headers;              // names in lower case
  std::string body;

  /// The first of that name; empty if there is none.
  std::string_view header(std::string_view lower_case_name) const {
    for (const auto& [name, value] : headers) {
      if (name == lower_case_name) return value;
    }
    return {};
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = {};
  HttpHeaders headers = {};  // besides content type and length; no line breaks in them
  bool close = false;        // the connection ends after it
};

/// Used on the I/O thread alone. An answer is either respond(), or begin(), any number of write(),
/// end(). After the client has gone all of them do nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual const HttpRequest& request() const = 0;
  virtual void respond(HttpResponse response) = 0;
  virtual void begin(HttpResponse head) = 0;  // its body is the first piece
  virtual void write(std::string_view piece) = 0;
  virtual void end() = 0;
  /// `gone` is called at most once: when the client leaves before the answer has ended.
  virtual void when_gone(std::function<void()> gone) = 0;
};

}  // namespace lowbit

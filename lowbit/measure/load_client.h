// SPDX-License-Identifier: Apache-2.0
// Asks a server over HTTP/1.1 as many clients at once, from one thread: a coroutine and a
// connection each (Boost.Beast), so that the client takes as little as possible of a machine it
// shares with the server.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/measure/load_report.h"

namespace lowbit {

struct ServerAddress {
  std::string host, port;
  std::string base;     // path before the routes: "" or "/some/where", without /v1
  std::string api_key;  // empty: none is sent

  std::string url() const;
};

/// http://HOST[:PORT][/BASE][/v1]
Result<ServerAddress> parse_server_url(std::string_view url);

struct HttpReply {
  int status = 0;
  std::string body;
};

/// One request, answered as a whole. Errors: no server, or one that speaks no HTTP.
Result<HttpReply> ask(const ServerAddress& server, std::string_view method, std::string_view path,
                      std::string body = {});

struct Load {
  std::string path;                   // of all requests
  std::vector<std::string> bodies;    // JSON; with "stream": true
  std::vector<std::int64_t> n_input;  // tokens in each, where the server does not say
  std::vector<double> arrivals;       // seconds from the beginning, ascending
  std::int64_t max_concurrency = 0;   // 0: no limit; others wait for a free connection
  /// Several times a second; false ends the test.
  std::function<bool(std::int64_t n_done, std::int64_t n_total)> progress = {};
};

struct LoadResult {
  std::vector<RequestRecord> records;  // in the order of the bodies
  double seconds = 0;                  // until the last answer
};

/// Errors: the name of the host is unknown, or progress() said no. What befalls single requests
/// stands in their records.
Result<LoadResult> run_load(const ServerAddress& server, const Load& load);

}  // namespace lowbit

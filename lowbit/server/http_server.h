// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 on one thread: a coroutine per connection (Boost.Beast), so that ten thousand idle or
// slow connections cost memory and nothing else. Everything has a limit: header and body bytes, the
// time to send them, idle time, unread answers, connections. A client that leaves is noticed while
// its answer is being computed. Blocking libraries with a thread per connection were rejected: 200
// half-open sockets stop them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/server/http.h"

namespace lowbit {

struct HttpLimits {
  std::size_t header_bytes = std::size_t{16} << 10;
  std::size_t body_bytes = std::size_t{8} << 20;
  double header_seconds = 10, body_seconds = 60;  // from the first byte of each to the last
  double idle_seconds = 120;                      // between requests
  double stall_seconds = 60;                      // a write that makes no progress
  std::int64_t n_connections = 16000;
};

/// Both PEM; "": no TLS.
struct TlsFiles {
  std::string certificate, key;
};

class HttpServer {
 public:
  struct Handlers {
    /// Judges a request by its head (body still empty): an answer ends it, whatever its body.
    std::function<std::optional<HttpResponse>(const HttpRequest&)> check_head;
    std::function<void(std::shared_ptr<Exchange>)> handle;
    /// An answer in the server's own form for what HTTP itself forbids (400, 408, 413, 431).
    std::function<HttpResponse(int status, const std::string& message)> refuse;
  };

  /// port 0: any free one. Errors name the address, or the certificate.
  static Result<std::unique_ptr<HttpServer>> listen(const std::string& host, int port,
                                                    const HttpLimits& limits, const TlsFiles& tls);
  virtual ~HttpServer() = default;

  virtual int port() const = 0;
  virtual std::int64_t n_connections() const = 0;
  /// Serves until stop(). Handlers, posted functions, timers and signals all run in here.
  virtual void run(Handlers handlers) = 0;
  /// Reads the certificate again, for the connections that come; on an error the old one stays.
  virtual Status reload_tls() = 0;
  /// Any thread. run() returns soon; answers that have not ended are cut.
  virtual void stop() = 0;
  /// Any thread.
  virtual void post(std::function<void()> call) = 0;
  virtual void after(double seconds, std::function<void()> call) = 0;
  virtual void on_signals(const std::vector<int>& signals, std::function<void(int)> call) = 0;
};

}  // namespace lowbit

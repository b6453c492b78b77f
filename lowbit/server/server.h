// SPDX-License-Identifier: Apache-2.0
// lowbit serve without its command line: one I/O thread that speaks HTTP and keeps all state
// (call_table.h: requests on their way, model_host.h: models), one thread that reads requests
// (worker.h), one that owns the engines (engine_loop.h). They pass values and share nothing that
// changes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/server/http_server.h"
#include "lowbit/server/served_model.h"

namespace lowbit {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  HttpLimits http = {};
  TlsFiles tls = {};
  std::int64_t max_queued = 512;             // requests beyond those that can run at once
  std::int64_t max_queued_tokens = 1 << 20;  // prompt tokens that have not been answered yet
  double drain_seconds = 15;                 // from SIGTERM to cutting what still runs
  double request_seconds = 600;              // from arrival to the last token
  double keep_alive_seconds = 15;            // between comments in a silent stream
  std::int64_t memory_bytes = 0;             // weights and KV caches of all loaded models
  double idle_unload_seconds = 0;            // unused for so long: unloaded; 0: never
  double load_wait_seconds = 60;             // that a request waits for memory of another model
  std::string api_key_file;                  // "": everyone may ask, unless api_keys has some
  std::vector<std::string> api_keys = {};
  std::vector<std::string> cors_origins = {};  // besides pages on this machine; "*": all
};

class Server {
 public:
  struct Calls {
    std::function<void(const std::string& line)> log;  // for people
    std::function<void(const std::string& json)>
        request;  // one JSON object per request; may be null
  };
  /// Listens; the first model is loaded in run(), the others when they are asked for. Errors: the
  /// address, the keys.
  static Result<std::unique_ptr<Server>> create(ServerOptions options,
                                                std::vector<ModelSource> models, Calls calls);
  virtual ~Server() = default;
  virtual int port() const = 0;
  /// Serves until SIGTERM or SIGINT has been obeyed (or stop() was called). Errors: the first model
  /// could not be loaded.
  virtual Status run() = 0;
  /// Any thread; as SIGTERM.
  virtual void stop() = 0;
};

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/server.h"

#include <signal.h>

#include <ctime>
#include <new>
#include <random>
#include <utility>

#include <fmt/format.h>

#include "lowbit/server/api_keys.h"
#include "lowbit/server/call_table.h"
#include "lowbit/server/metrics.h"
#include "lowbit/server/model_host.h"
#include "lowbit/server/page.h"
#include "lowbit/server/prepare.h"
#include "lowbit/server/request_headers.h"
#include "lowbit/server/routes.h"
#include "lowbit/server/worker.h"

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t most_unread_requests = 1024;
constexpr double longest_silence_seconds = 30;  // of the engine while it has work

ApiError unknown_model() {
  return {.status = 404,
          .message = "that model is not served here; /v1/models lists what is",
          .param = "model",
          .code = "model_not_found"};
}

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, std::vector<ModelSource> sources, Calls calls, ApiKeys keys,
             std::unique_ptr<HttpServer> http)
      : options_(std::move(options)),
        calls_(std::move(calls)),
        keys_(std::move(keys)),
        random_(std::random_device{}()),
        table_(call_limits(), table_calls(), metrics_),
        host_(std::move(sources), host_options(), host_calls()),
        http_(std::move(http)) {
    metrics_.models.resize(host_.n_models());
    http_->on_signals({SIGTERM, SIGINT, SIGHUP}, [this](int signal) { on_signal(signal); });
  }
  ~ServerImpl() override {
    // Nobody is told any more. Threads that post to the I/O loop end before the loop.
    table_.clear();
    worker_.reset();
    engine_.reset();
    http_.reset();
  }

  int port() const override { return http_->port(); }
  Status run() override;
  void stop() override {
    http_->post([this] { drain(); });
  }

 private:
  // On the I/O thread, all of them.
  std::optional<HttpResponse> check_head(const HttpRequest& request);
  void handle(std::shared_ptr<Exchange> exchange);
  void read(CallId id, Endpoint endpoint);
  void on_parsed(CallId id, Endpoint endpoint, std::shared_ptr<ParsedBody> parsed);
  void prepare_call(CallId id, Endpoint endpoint, const std::shared_ptr<ParsedBody>& parsed);
  void submit_work(CallId id, std::function<void()> work);
  HttpResponse get(RouteName route, const HttpRequest& request);
  HttpResponse model_named(const std::string& path) const;
  HttpResponse metrics_page();
  HttpResponse health();
  void load_first();
  void on_loaded(ModelIndex model, std::shared_ptr<const ServedModel> served,
                 const std::string& problem);
  void tick();
  void on_signal(int signal);
  void reload_files();
  void drain();
  void end_when_idle();

  CallLimits call_limits() const;
  CallTable::Calls table_calls();
  HostOptions host_options() const;
  ModelHost::Calls host_calls();
  Json model_json(ModelIndex model) const;
  Json models_json() const;
  std::string_view scheme() const { return options_.tls.certificate.empty() ? "http" : "https"; }
  std::string new_id();

  const ServerOptions options_;
  const Calls calls_;
  ApiKeys keys_;
  Metrics metrics_;
  std::mt19937_64 random_;
  std::int64_t started_ = std::time(nullptr);
  bool is_ready_ = false;  // the first model has been loaded
  std::string problem_;    // why it could not be
  bool drains_ = false, ends_ = false;
  CallId next_call_ = 1;
  CallTable table_;
  ModelHost host_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<EngineLoop> engine_;
  std::unique_ptr<Worker> worker_;
};

// ---- life

CallLimits ServerImpl::call_limits() const {
  return {.n_queued = options_.max_queued,
          .n_queued_tokens = options_.max_queued_tokens,
          .request_seconds = options_.request_seconds,
          .keep_alive_seconds = options_.keep_alive_seconds};
}

CallTable::Calls ServerImpl::table_calls() {
  return {.submit = [this](ModelIndex model,
                           std::vector<Job> jobs) { engine_->submit(model, std::move(jobs)); },
          .cancel = [this](JobId id) { engine_->cancel(id); },
          .release = [this](ModelIndex model) { host_.release(model, Clock::now()); },
          .log = calls_.request,
          .new_id = [this] { return new_id(); }};
}

HostOptions ServerImpl::host_options() const {
  return {.memory_bytes = options_.memory_bytes,
          .idle_seconds = options_.idle_unload_seconds,
          .wait_seconds = options_.load_wait_seconds,
          .most_waiting = static_cast<std::size_t>(options_.max_queued)};
}

ModelHost::Calls ServerImpl::host_calls() {
  return {.load = [this](ModelIndex model, std::int64_t n_bytes) { engine_->load(model, n_bytes); },
          .unload =
              [this](ModelIndex model) {
                metrics_.models[model].on_unloaded();
                engine_->unload(model);
              },
          .log = calls_.log};
}

Status ServerImpl::run() {
  worker_ = std::make_unique<Worker>(most_unread_requests);
  std::vector<LoadModel> loads;
  for (ModelIndex model = 0; model < host_.n_models(); ++model) {
    loads.push_back(host_.source(model).load);
  }
  engine_ = std::make_unique<EngineLoop>(
      std::move(loads),
      EngineLoop::Calls{.on_loaded =
                            [this](ModelIndex model, std::shared_ptr<const ServedModel> served,
                                   std::string problem) {
                              http_->post([this, model, served = std::move(served),
                                           problem = std::move(problem)]() mutable {
                                on_loaded(model, std::move(served), problem);
                              });
                            },
                        .on_step =
                            [this](StepReport report) {
                              http_->post(
                                  [this, report = std::move(report)] { table_.on_step(report); });
                            }});
  http_->post([this] { load_first(); });
  tick();
  http_->run({.check_head = [this](const HttpRequest& request) { return check_head(request); },
              .handle = [this](std::shared_ptr<Exchange> exchange) { handle(std::move(exchange)); },
              .refuse =
                  [this](int status, const std::string& message) {
                    ++metrics_.answered[status];
                    return to_response({.status = status, .message = message});
                  }});
  if (!problem_.empty()) return Error(problem_);
  return ok();
}

/// The others are loaded when somebody asks for them; without this one the server ends.
void ServerImpl::load_first() {
  host_.acquire(0, Clock::now(),
                [this](const std::shared_ptr<const ServedModel>& served, const Refusal& refusal) {
                  if (served == nullptr) {
                    if (problem_.empty()) problem_ = refusal->message;
                    return http_->stop();
                  }
                  is_ready_ = true;
                  calls_.log(fmt::format("{} is ready on {}://{}:{} (context {}, up to {} at once)",
                                         served->names.front(), scheme(), options_.host, port(),
                                         served->n_ctx(), served->max_sequences));
                  host_.release(0, Clock::now());
                });
}

void ServerImpl::on_loaded(ModelIndex model, std::shared_ptr<const ServedModel> served,
                           const std::string& problem) {
  if (served) {
    metrics_.models[model].on_loaded(*served);
    calls_.log(served->names.front() + ": " + served->memory_plan);
  } else if (!is_ready_) {
    problem_ = problem;
  }
  host_.on_loaded(model, std::move(served), problem, Clock::now());
}

void ServerImpl::on_signal(int signal) {
  if (signal == SIGHUP) return reload_files();
  if (drains_) return http_->stop();
  drain();
}

void ServerImpl::reload_files() {
  if (const Status read = http_->reload_tls(); !read) {
    calls_.log(read.error().message() + "; the old certificate stays");
  }
  auto keys = ApiKeys::load(options_.api_key_file, options_.api_keys);
  if (!keys) return calls_.log(keys.error().message() + "; the old keys stay");
  keys_ = *std::move(keys);
  calls_.log("API keys and certificates read again");
}

void ServerImpl::drain() {
  if (drains_) return;
  drains_ = true;
  table_.drain();
  calls_.log(fmt::format("ending: {} requests are finished first, for at most {} s", table_.size(),
                         options_.drain_seconds));
  http_->after(options_.drain_seconds,
               [this] { table_.fail_all(busy("the server is shutting down")); });
  end_when_idle();
}

void ServerImpl::end_when_idle() {
  constexpr double pause_seconds = 0.05, flush_seconds = 0.2;
  if (!table_.is_empty()) return http_->after(pause_seconds, [this] { end_when_idle(); });
  if (std::exchange(ends_, true)) return;
  http_->after(flush_seconds, [this] { http_->stop(); });
}

/// Every second.
void ServerImpl::tick() {
  const TimePoint now = Clock::now();
  table_.tick(now);
  host_.tick(now);
  http_->after(1, [this] { tick(); });
}

// ---- requests

std::optional<HttpResponse> ServerImpl::check_head(const HttpRequest& request) {
  const auto refuse = [&](const ApiError& error, HttpHeaders more = {}) {
    HttpResponse response = to_response(error);
    for (auto& header : common_headers(request, options_.cors_origins)) more.push_back(header);
    more.emplace_back("X-Request-Id", request_id(request, [&] { return "req-" + new_id(); }));
    response.headers.insert(response.headers.end(), more.begin(), more.end());
    response.close = drains_;
    ++metrics_.answered[error.status];
    return response;
  };
  if (request.method == "OPTIONS") return preflight(request, options_.cors_origins);
  std::string allowed;
  const Route* route = find_route(request.method, request.path, allowed);
  if (route == nullptr && !allowed.empty()) {
    return refuse({.status = 405, .message = fmt::format("this route takes {}", allowed)},
                  {{"Allow", allowed}});
  }
  if (route == nullptr) {
    return refuse({.status = 404,
                   .message = "there is no such route; /openapi.json lists them",
                   .code = "route_not_found"});
  }
  if (!route->is_open && !keys_.allow(request.header("authorization"))) {
    return refuse({.status = 401,
                   .message = "a valid API key is needed: Authorization: Bearer KEY",
                   .code = "invalid_api_key"});
  }
  if (route->is_open) return {};
  if (drains_) return refuse(busy("the server is shutting down"));
  if (!is_ready_) return refuse(busy("the model is being loaded"));
  return {};
}

void ServerImpl::handle(std::shared_ptr<Exchange> exchange) {
  const HttpRequest& request = exchange->request();
  std::string allowed;
  const Route* route = find_route(request.method, request.path, allowed);
  const CallId id = next_call_++;
  Call call{.id = id, .exchange = exchange, .arrival = Clock::now()};
  call.request_id = request_id(request, [&] { return "req-" + new_id(); });
  call.headers = common_headers(request, options_.cors_origins);
  call.headers.emplace_back("X-Request-Id", call.request_id);
  if (!route->endpoint) return table_.respond(call, get(route->name, request));
  exchange->when_gone([this, id] { table_.on_gone(id); });
  table_.add(std::move(call));
  read(id, *route->endpoint);
}

/// Off the I/O thread; what it throws is an answer.
void ServerImpl::submit_work(CallId id, std::function<void()> work) {
  const bool is_taken = worker_->submit([this, id, work = std::move(work)] {
    try {
      work();
    } catch (const std::bad_alloc&) {
      http_->post([this, id] {
        table_.fail(id, {.status = 500, .message = "out of memory for this request"}, "error");
      });
    }
  });
  if (!is_taken) table_.fail(id, busy("too many requests are waiting to be read"), "error");
}

/// First the body, which says which model it is for.
void ServerImpl::read(CallId id, Endpoint endpoint) {
  submit_work(id, [this, id, endpoint, exchange = table_.find(id)->exchange] {
    auto parsed = std::make_shared<ParsedBody>(parse_body(endpoint, exchange->request().body));
    http_->post([this, id, endpoint, parsed] { on_parsed(id, endpoint, parsed); });
  });
}

void ServerImpl::on_parsed(CallId id, Endpoint endpoint, std::shared_ptr<ParsedBody> parsed) {
  Call* const call = table_.find(id);
  if (call == nullptr) return;  // the client has gone meanwhile
  if (parsed->refusal) return table_.fail(id, *parsed->refusal, "error");
  call->model = host_.find(parsed->model);
  if (!call->model) return table_.fail(id, unknown_model(), "error");
  host_.acquire(*call->model, Clock::now(),
                [this, id, endpoint, parsed, model = *call->model](
                    std::shared_ptr<const ServedModel> served, const Refusal& refusal) {
                  if (refusal) return table_.fail(id, *refusal, "error");
                  Call* const waiting = table_.find(id);
                  if (waiting == nullptr) return host_.release(model, Clock::now());
                  waiting->served = std::move(served);
                  prepare_call(id, endpoint, parsed);
                });
}

void ServerImpl::prepare_call(CallId id, Endpoint endpoint,
                              const std::shared_ptr<ParsedBody>& parsed) {
  const Call& call = *table_.find(id);
  RequestScope scope{
      .random_seed = random_(),
      .key_salt = keys_.cache_salt(call.exchange->request().header("authorization"))};
  submit_work(id, [this, id, endpoint, parsed, served = call.served, scope = std::move(scope)] {
    auto prepared = std::make_shared<Prepared>(prepare(endpoint, parsed->json, *served, scope));
    http_->post([this, id, prepared] { table_.on_prepared(id, std::move(*prepared)); });
  });
}

// ---- what can be read

HttpResponse ServerImpl::get(RouteName route, const HttpRequest& request) {
  HttpResponse response;
  switch (route) {
    case RouteName::models:
      response.body = dump({{"object", "list"}, {"data", models_json()}});
      return response;
    case RouteName::model:
      return model_named(request.path);
    case RouteName::ready:
      if (drains_) return to_response(busy("the server is shutting down"));
      return health();
    case RouteName::health:
      return health();
    case RouteName::metrics:
      return metrics_page();
    case RouteName::version:
      response.body = dump({{"version", LOWBIT_VERSION}});
      return response;
    case RouteName::openapi:
      response.body = dump(openapi_document());
      return response;
    case RouteName::page:
    case RouteName::page_file:
      return page_response(request);
    default:
      return to_response({.status = 404, .message = "there is no such route"});
  }
}

HttpResponse ServerImpl::metrics_page() {
  metrics_.n_connections = http_->n_connections();
  metrics_.memory_bytes = host_.memory_bytes();
  metrics_.memory_used_bytes = host_.used_bytes();
  std::vector<std::string> names;
  for (ModelIndex model = 0; model < host_.n_models(); ++model) {
    names.push_back(host_.source(model).names.front());
    metrics_.models[model].n_waiting_for_load = static_cast<std::int64_t>(host_.n_waiting(model));
  }
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = metrics_.text(names, Clock::now());
  return response;
}

HttpResponse ServerImpl::health() {
  if (!is_ready_) return to_response(busy("the model is being loaded"));
  if (drains_) return to_response(busy("the server is shutting down"));
  if (table_.has_jobs() && engine_->seconds_silent() > longest_silence_seconds) {
    return to_response(busy("the engine has stopped answering"));
  }
  HttpResponse response;
  response.body = dump({{"status", "ok"}});
  return response;
}

Json ServerImpl::model_json(ModelIndex model) const {
  const ModelSource& source = host_.source(model);
  const std::int64_t n_ctx = host_.n_ctx(model);
  return {{"id", source.names.front()},
          {"object", "model"},
          {"created", started_},
          {"owned_by", "lowbit"},
          {"root", source.description},
          {"max_model_len", n_ctx == 0 ? Json() : Json(n_ctx)},
          {"loaded", host_.state(model) == ModelHost::State::loaded}};
}

Json ServerImpl::models_json() const {
  Json models = Json::array();
  for (ModelIndex model = 0; model < host_.n_models(); ++model) models.push_back(model_json(model));
  return models;
}

HttpResponse ServerImpl::model_named(const std::string& path) const {
  constexpr std::string_view before = "/v1/models/";
  const auto model = host_.find(percent_decoded(std::string_view(path).substr(before.size())));
  if (!model) return to_response(unknown_model());
  HttpResponse response;
  response.body = dump(model_json(*model));
  return response;
}

std::string ServerImpl::new_id() {
  return fmt::format("{:016x}{:08x}", random_(), random_() >> 32);
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(ServerOptions options,
                                               std::vector<ModelSource> sources, Calls calls) {
  auto keys = ApiKeys::load(options.api_key_file, options.api_keys);
  if (!keys) return std::move(keys).error();
  auto http = HttpServer::listen(options.host, options.port, options.http, options.tls);
  if (!http) return std::move(http).error();
  return std::unique_ptr<Server>(std::make_unique<ServerImpl>(std::move(options),
                                                              std::move(sources), std::move(calls),
                                                              *std::move(keys), *std::move(http)));
}

}  // namespace lowbit

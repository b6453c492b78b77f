// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/server.h"

#include <signal.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <map>
#include <new>
#include <random>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "lowbit/server/answer.h"
#include "lowbit/server/api_keys.h"
#include "lowbit/server/metrics.h"
#include "lowbit/server/page.h"
#include "lowbit/server/prepare.h"
#include "lowbit/server/request_headers.h"
#include "lowbit/server/routes.h"
#include "lowbit/server/worker.h"

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;
using CallId = std::uint64_t;

constexpr std::size_t most_unread_requests = 1024;
constexpr double longest_silence_seconds = 30;  // of the engine while it has work

double seconds_between(TimePoint first, TimePoint last) {
  return std::chrono::duration<double>(last - first).count();
}

/// A request on its way. Those that generate get an answer and jobs once they have been read.
struct Call {
  CallId id = 0;
  std::shared_ptr<Exchange> exchange;
  std::string request_id = {};
  HttpHeaders headers = {};
  TimePoint arrival = {};
  std::unique_ptr<Answer> answer = nullptr;
  std::vector<JobId> jobs = {};
  std::int64_t n_prompt = 0;
};

struct JobPlace {
  CallId call = 0;
  std::size_t choice = 0;
  std::int64_t n_prompt = 0;  // 0 once it has begun to answer
  std::int64_t n_tokens = 0;
  TimePoint last_token;
};

std::unique_ptr<AnswerFormat> format_of(Endpoint endpoint, const FormatOptions& options) {
  switch (endpoint) {
    case Endpoint::chat:
      return make_chat_format(options);
    case Endpoint::responses:
      return make_response_format(options);
    case Endpoint::embeddings:
      return make_embedding_format(options);
    default:
      return make_completion_format(options);
  }
}

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, Calls calls, ApiKeys keys, std::unique_ptr<HttpServer> http)
      : options_(std::move(options)),
        calls_(std::move(calls)),
        keys_(std::move(keys)),
        random_(std::random_device{}()),
        http_(std::move(http)) {
    http_->on_signals({SIGTERM, SIGINT, SIGHUP}, [this](int signal) { on_signal(signal); });
  }
  ~ServerImpl() override {
    // Nobody is told any more. Threads that post to the I/O loop end before the loop.
    active_.clear();
    jobs_.clear();
    worker_.reset();
    engine_.reset();
    http_.reset();
  }

  int port() const override { return http_->port(); }
  Status run(LoadModel load) override;
  void stop() override {
    http_->post([this] { drain(); });
  }

 private:
  // On the I/O thread, all of them.
  std::optional<HttpResponse> check_head(const HttpRequest& request);
  void handle(std::shared_ptr<Exchange> exchange);
  HttpResponse get(RouteName route, const HttpRequest& request);
  HttpResponse model_named(const std::string& path) const;
  HttpResponse health();
  void on_loaded(const ServedModel* model, const std::string& problem);
  void on_prepared(CallId id, Prepared prepared);
  void start_answer(Call& call, Prepared& prepared);
  void on_step(const StepReport& report);
  void on_output(const JobOutput& output, const StepReport& report);
  void on_gone(CallId id);
  void finish(CallId id, std::string_view reason);
  void cancel_jobs(Call& call);
  void respond(Call& call, HttpResponse response);
  void fail_call(CallId id, const ApiError& error, std::string_view reason);
  void log_call(const Call& call, int status, std::string_view reason);
  void tick();
  void on_signal(int signal);
  void reload_keys();
  void drain();
  void end_when_idle();

  Refusal check_queue(const Prepared& prepared) const;
  Json model_json(const std::string& name) const;
  std::string new_id();

  const ServerOptions options_;
  const Calls calls_;
  ApiKeys keys_;
  Metrics metrics_;
  std::mt19937_64 random_;
  std::int64_t started_ = std::time(nullptr);
  const ServedModel* model_ = nullptr;  // the engine loop's; null while loading
  std::string problem_;                 // why there is no model
  bool drains_ = false, ends_ = false;
  CallId next_call_ = 1;
  JobId next_job_ = 1;
  std::int64_t n_queued_tokens_ = 0;
  std::map<CallId, Call> active_;
  std::unordered_map<JobId, JobPlace> jobs_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<EngineLoop> engine_;
  std::unique_ptr<Worker> worker_;
};

// ---- life

Status ServerImpl::run(LoadModel load) {
  worker_ = std::make_unique<Worker>(most_unread_requests);
  engine_ = std::make_unique<EngineLoop>(
      std::move(load),
      EngineLoop::Calls{.on_loaded =
                            [this](const ServedModel* model, std::string problem) {
                              http_->post([this, model, problem = std::move(problem)] {
                                on_loaded(model, problem);
                              });
                            },
                        .on_step =
                            [this](StepReport report) {
                              http_->post([this, report = std::move(report)] { on_step(report); });
                            }});
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

void ServerImpl::on_loaded(const ServedModel* model, const std::string& problem) {
  if (model == nullptr) {
    problem_ = problem;
    http_->stop();
    return;
  }
  model_ = model;
  metrics_.weight_bytes = model->weight_bytes;
  calls_.log(fmt::format("{} is ready on http://{}:{} (context {}, up to {} at once)",
                         model->names.front(), options_.host, port(), model->n_ctx(),
                         model->max_sequences));
}

void ServerImpl::on_signal(int signal) {
  if (signal == SIGHUP) return reload_keys();
  if (drains_) return http_->stop();
  drain();
}

void ServerImpl::reload_keys() {
  auto keys = ApiKeys::load(options_.api_key_file, options_.api_keys);
  if (!keys) return calls_.log(keys.error().message() + "; the old keys stay");
  keys_ = *std::move(keys);
  calls_.log("API keys read again");
}

void ServerImpl::drain() {
  if (drains_) return;
  drains_ = true;
  calls_.log(fmt::format("ending: {} requests are finished first, for at most {} s", active_.size(),
                         options_.drain_seconds));
  http_->after(options_.drain_seconds, [this] {
    std::vector<CallId> left;
    for (const auto& [id, call] : active_) left.push_back(id);
    for (const CallId id : left) fail_call(id, busy("the server is shutting down"), "abort");
  });
  end_when_idle();
}

void ServerImpl::end_when_idle() {
  constexpr double pause_seconds = 0.05, flush_seconds = 0.2;
  if (!active_.empty()) return http_->after(pause_seconds, [this] { end_when_idle(); });
  if (std::exchange(ends_, true)) return;
  http_->after(flush_seconds, [this] { http_->stop(); });
}

/// Every second: comments into silent streams, requests that took too long.
void ServerImpl::tick() {
  const TimePoint now = Clock::now();
  std::vector<CallId> late;
  for (auto& [id, call] : active_) {
    if (!call.answer) continue;
    if (seconds_between(call.arrival, now) > options_.request_seconds) late.push_back(id);
    if (seconds_between(call.answer->last_sent(), now) > options_.keep_alive_seconds) {
      call.answer->keep_alive();
    }
  }
  for (const CallId id : late) {
    fail_call(id,
              {.status = 504,
               .message = fmt::format("the answer took longer than {} s", options_.request_seconds),
               .code = "timeout"},
              "abort");
  }
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
  if (model_ == nullptr) return refuse(busy("the model is being loaded"));
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
  if (!route->endpoint) return respond(call, get(route->name, request));
  exchange->when_gone([this, id] { on_gone(id); });
  active_.emplace(id, std::move(call));
  const bool is_taken = worker_->submit(
      [this, id, exchange, endpoint = *route->endpoint, model = model_, seed = random_()] {
        Prepared prepared;
        try {
          prepared = prepare(endpoint, exchange->request().body, *model, seed);
        } catch (const std::bad_alloc&) {
          prepared.refusal = ApiError{.status = 500, .message = "out of memory for this request"};
        }
        http_->post([this, id, prepared = std::make_shared<Prepared>(std::move(prepared))] {
          on_prepared(id, std::move(*prepared));
        });
      });
  if (!is_taken) {
    ++metrics_.n_rejected;
    fail_call(id, busy("too many requests are waiting to be read"), "error");
  }
}

HttpResponse ServerImpl::get(RouteName route, const HttpRequest& request) {
  HttpResponse response;
  switch (route) {
    case RouteName::models:
      response.body =
          dump({{"object", "list"}, {"data", Json::array({model_json(model_->names.front())})}});
      return response;
    case RouteName::model:
      return model_named(request.path);
    case RouteName::ready:
      if (drains_) return to_response(busy("the server is shutting down"));
      return health();
    case RouteName::health:
      return health();
    case RouteName::metrics:
      metrics_.n_connections = http_->n_connections();
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = metrics_.text(model_ == nullptr ? "" : model_->names.front());
      return response;
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

HttpResponse ServerImpl::health() {
  if (model_ == nullptr) return to_response(busy("the model is being loaded"));
  if (drains_) return to_response(busy("the server is shutting down"));
  if (!jobs_.empty() && engine_->seconds_silent() > longest_silence_seconds) {
    return to_response(busy("the engine has stopped answering"));
  }
  HttpResponse response;
  response.body = dump({{"status", "ok"}});
  return response;
}

Json ServerImpl::model_json(const std::string& name) const {
  return {
      {"id", name},           {"object", "model"},           {"created", started_},
      {"owned_by", "lowbit"}, {"root", model_->description}, {"max_model_len", model_->n_ctx()}};
}

HttpResponse ServerImpl::model_named(const std::string& path) const {
  constexpr std::string_view before = "/v1/models/";
  const std::string name = percent_decoded(std::string_view(path).substr(before.size()));
  if (std::ranges::find(model_->names, name) == model_->names.end()) {
    return to_response({.status = 404,
                        .message = "that model is not served here; /v1/models lists what is",
                        .param = "model",
                        .code = "model_not_found"});
  }
  HttpResponse response;
  response.body = dump(model_json(model_->names.front()));
  return response;
}

void ServerImpl::on_prepared(CallId id, Prepared prepared) {
  const auto at = active_.find(id);
  if (at == active_.end()) return;  // the client has gone meanwhile
  Call& call = at->second;
  if (!prepared.ignored.empty()) {
    call.headers.emplace_back("X-Lowbit-Ignored", field_names(prepared.ignored));
  }
  if (!prepared.refusal && !prepared.reply) prepared.refusal = check_queue(prepared);
  if (prepared.refusal) return fail_call(id, *prepared.refusal, "error");
  if (prepared.reply) {
    HttpResponse response;
    response.body = dump(*prepared.reply);
    respond(call, std::move(response));
    active_.erase(id);
    return;
  }
  start_answer(call, prepared);
}

Refusal ServerImpl::check_queue(const Prepared& prepared) const {
  const std::int64_t n_jobs = static_cast<std::int64_t>(jobs_.size() + prepared.jobs.size());
  const bool is_full = n_jobs > model_->max_sequences + options_.max_queued;
  const bool is_long =
      n_queued_tokens_ > 0 && n_queued_tokens_ + prepared.n_prompt > options_.max_queued_tokens;
  if (!is_full && !is_long) return {};
  return busy("the queue is full; try again in a moment");
}

void ServerImpl::start_answer(Call& call, Prepared& prepared) {
  const Generation& generation = prepared.generation;
  FormatOptions format{.head = {.id = new_id(),
                                .model = model_->names.front(),
                                .created = std::time(nullptr),
                                .fingerprint = "lowbit-" LOWBIT_VERSION},
                       .tokenizer = &model_->tokenizer(),
                       .has_logprobs = generation.n_top_logprobs.has_value(),
                       .as_base64 = prepared.as_base64};
  AnswerOptions options;
  options.format = format_of(prepared.endpoint, format);
  options.n_choices = prepared.jobs.size();
  options.echoes = std::move(prepared.echoes);
  options.stop_ids = generation.stop_ids;
  options.ignore_end = generation.ignore_end;
  options.stream = generation.stream;
  options.include_usage = generation.include_usage;
  options.has_tools = prepared.has_tools;
  options.call_id_prefix = "call_" + format.head.id + "-";
  options.n_prompt = prepared.n_prompt;
  options.headers = call.headers;
  call.n_prompt = prepared.n_prompt;
  call.answer = std::make_unique<Answer>(call.exchange, std::move(options), model_->tokenizer());
  metrics_.n_choices.add(static_cast<double>(generation.n_choices));
  if (generation.max_tokens) {
    metrics_.max_tokens.add(static_cast<double>(*generation.max_tokens));
  }
  for (std::size_t choice = 0; choice < prepared.jobs.size(); ++choice) {
    Job& job = prepared.jobs[choice];
    job.id = next_job_++;
    call.jobs.push_back(job.id);
    const auto n_prompt = static_cast<std::int64_t>(job.request.prompt.size());
    jobs_[job.id] = {.call = call.id, .choice = choice, .n_prompt = n_prompt, .last_token = {}};
    n_queued_tokens_ += n_prompt;
  }
  engine_->submit(std::move(prepared.jobs));
}

// ---- answers

void ServerImpl::on_step(const StepReport& report) {
  metrics_.engine = report.state;
  if (report.step_seconds > 0) metrics_.step.add(report.step_seconds);
  for (const JobOutput& output : report.outputs) on_output(output, report);
}

void ServerImpl::on_output(const JobOutput& output, const StepReport& report) {
  const auto at = jobs_.find(output.id);
  if (at == jobs_.end()) return;  // cancelled
  JobPlace& job = at->second;
  const CallId id = job.call;
  const std::size_t choice = job.choice;
  Call& call = active_.at(id);
  n_queued_tokens_ -= std::exchange(job.n_prompt, 0);
  if (output.output.token) {
    ++metrics_.n_generation_tokens;
    if (++job.n_tokens == 1) {
      metrics_.ttft.add(seconds_between(call.arrival, report.time));
    } else {
      metrics_.inter_token.add(seconds_between(job.last_token, report.time));
    }
    job.last_token = report.time;
  }
  if (!output.error.empty()) {
    return fail_call(id, {.message = output.error}, "error");
  }
  const bool has_ended = output.output.finish.has_value();
  if (has_ended) {
    metrics_.generation_tokens.add(static_cast<double>(job.n_tokens));
    jobs_.erase(at);
  }
  call.answer->add(choice, output, report.time);
  if (has_ended) ++metrics_.finished[call.answer->finish_of(choice)];
  if (call.answer->is_done()) finish(id, call.answer->finish_of(choice));
}

void ServerImpl::finish(CallId id, std::string_view reason) {
  const auto at = active_.find(id);
  if (at == active_.end()) return;
  Call& call = at->second;
  cancel_jobs(call);
  const TimePoint now = Clock::now();
  metrics_.n_prompt_tokens += call.n_prompt;
  if (call.answer) {
    metrics_.prompt_tokens.add(static_cast<double>(call.n_prompt));
    metrics_.e2e.add(seconds_between(call.arrival, now));
    const std::int64_t n_more = call.answer->usage().n_completion - 1;
    if (n_more > 0 && call.answer->n_choices() == 1) {
      metrics_.per_output_token.add(seconds_between(*call.answer->first_token(), now) /
                                    static_cast<double>(n_more));
    }
  }
  const int status = call.answer ? call.answer->status() : 0;
  if (status != 0) ++metrics_.answered[status];
  log_call(call, status, reason);
  active_.erase(at);
}

void ServerImpl::cancel_jobs(Call& call) {
  for (const JobId id : call.jobs) {
    const auto at = jobs_.find(id);
    if (at == jobs_.end()) continue;
    n_queued_tokens_ -= at->second.n_prompt;
    ++metrics_.finished["abort"];
    jobs_.erase(at);
    engine_->cancel(id);
  }
  call.jobs.clear();
}

void ServerImpl::on_gone(CallId id) {
  const auto at = active_.find(id);
  if (at == active_.end()) return;
  if (at->second.answer) at->second.answer->give_up();
  finish(id, "gone");
}

void ServerImpl::fail_call(CallId id, const ApiError& error, std::string_view reason) {
  const auto at = active_.find(id);
  if (at == active_.end()) return;
  Call& call = at->second;
  if (error.status == 503 && !drains_) ++metrics_.n_rejected;
  if (call.answer) {
    call.answer->fail(error);
    return finish(id, reason);
  }
  HttpResponse response = to_response(error);
  // Repeating cannot help: the client is told so, because it repeats 5xx by itself.
  if (error.status >= 500 && error.retry_after == 0) {
    response.headers.emplace_back("x-should-retry", "false");
  }
  respond(call, std::move(response));
  active_.erase(id);
}

void ServerImpl::respond(Call& call, HttpResponse response) {
  response.headers.insert(response.headers.end(), call.headers.begin(), call.headers.end());
  response.close = response.close || drains_;
  ++metrics_.answered[response.status];
  if (call.exchange->request().method == "POST") log_call(call, response.status, "");
  call.exchange->respond(std::move(response));
}

void ServerImpl::log_call(const Call& call, int status, std::string_view reason) {
  if (!calls_.request) return;
  const TimePoint now = Clock::now();
  const auto milliseconds = [&](TimePoint time) {
    return std::round(seconds_between(call.arrival, time) * 1e6) / 1e3;
  };
  Json line = {{"time", std::time(nullptr)},
               {"request_id", call.request_id},
               {"method", call.exchange->request().method},
               {"path", call.exchange->request().path},
               {"status", status},
               {"total_ms", milliseconds(now)}};
  if (call.answer) {
    const Usage& usage = call.answer->usage();
    line["stream"] = call.answer->is_streaming();
    line["prompt_tokens"] = usage.n_prompt;
    line["cached_tokens"] = usage.n_cached;
    line["completion_tokens"] = usage.n_completion;
    line["ttft_ms"] = call.answer->first_token() ? Json(milliseconds(*call.answer->first_token()))
                                                 : Json(nullptr);
    line["finish"] = reason;
    line["client_gone"] = reason == "gone";
  }
  calls_.request(dump(line));
}

std::string ServerImpl::new_id() {
  return fmt::format("{:016x}{:08x}", random_(), random_() >> 32);
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(ServerOptions options, Calls calls) {
  auto keys = ApiKeys::load(options.api_key_file, options.api_keys);
  if (!keys) return std::move(keys).error();
  auto http = HttpServer::listen(options.host, options.port, options.http);
  if (!http) return std::move(http).error();
  return std::unique_ptr<Server>(std::make_unique<ServerImpl>(std::move(options), std::move(calls),
                                                              *std::move(keys), *std::move(http)));
}

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/call_table.h"

#include <cmath>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "lowbit/server/request_headers.h"

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(TimePoint first, TimePoint last) {
  return std::chrono::duration<double>(last - first).count();
}

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

}  // namespace

Call* CallTable::find(CallId id) {
  const auto at = active_.find(id);
  return at == active_.end() ? nullptr : &at->second;
}

void CallTable::clear() {
  active_.clear();
  jobs_.clear();
}

void CallTable::tick(TimePoint now) {
  std::vector<CallId> late;
  for (auto& [id, call] : active_) {
    if (seconds_between(call.arrival, now) > limits_.request_seconds) late.push_back(id);
    if (!call.answer) continue;
    if (seconds_between(call.answer->last_sent(), now) > limits_.keep_alive_seconds) {
      call.answer->keep_alive();
    }
  }
  for (const CallId id : late) {
    fail(id,
         {.status = 504,
          .message = fmt::format("the answer took longer than {} s", limits_.request_seconds),
          .code = "timeout"},
         "abort");
  }
}

// ---- from a request to jobs

void CallTable::on_prepared(CallId id, Prepared prepared) {
  Call* const call = find(id);
  if (call == nullptr) return;  // the client has gone meanwhile
  if (!prepared.ignored.empty()) {
    call->headers.emplace_back("X-Lowbit-Ignored", field_names(prepared.ignored));
  }
  if (!prepared.refusal && !prepared.reply) prepared.refusal = check_queue(*call, prepared);
  if (prepared.refusal) return fail(id, *prepared.refusal, "error");
  if (prepared.reply) {
    HttpResponse response;
    response.body = dump(*prepared.reply);
    respond(*call, std::move(response));
    return erase(id);
  }
  start_answer(*call, prepared);
}

Refusal CallTable::check_queue(const Call& call, const Prepared& prepared) const {
  const auto at = n_jobs_.find(*call.model);
  const std::int64_t n_jobs = (at == n_jobs_.end() ? 0 : at->second) + std::ssize(prepared.jobs);
  const bool is_full = n_jobs > call.served->max_sequences + limits_.n_queued;
  const bool is_long =
      n_queued_tokens_ > 0 && n_queued_tokens_ + prepared.n_prompt > limits_.n_queued_tokens;
  if (!is_full && !is_long) return {};
  return busy("the queue is full; try again in a moment");
}

void CallTable::start_answer(Call& call, Prepared& prepared) {
  const Generation& generation = prepared.generation;
  const ServedModel& served = *call.served;
  FormatOptions format{.head = {.id = calls_.new_id(),
                                .model = served.names.front(),
                                .created = std::time(nullptr),
                                .fingerprint = "lowbit-" LOWBIT_VERSION},
                       .tokenizer = &served.tokenizer(),
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
  call.answer = std::make_unique<Answer>(call.exchange, std::move(options), served.tokenizer());
  ModelMetrics& metrics = metrics_.models[*call.model];
  metrics.n_choices.add(static_cast<double>(generation.n_choices));
  if (generation.max_tokens) metrics.max_tokens.add(static_cast<double>(*generation.max_tokens));
  for (std::size_t choice = 0; choice < prepared.jobs.size(); ++choice) {
    Job& job = prepared.jobs[choice];
    job.id = next_job_++;
    call.jobs.push_back(job.id);
    const auto n_prompt = static_cast<std::int64_t>(job.request.prompt.size());
    jobs_[job.id] = {.call = call.id,
                     .model = *call.model,
                     .choice = choice,
                     .n_prompt = n_prompt,
                     .last_token = {}};
    n_queued_tokens_ += n_prompt;
    ++n_jobs_[*call.model];
  }
  calls_.submit(*call.model, std::move(prepared.jobs));
}

// ---- answers

void CallTable::on_step(const StepReport& report) {
  metrics_.models[report.model].on_step(report);
  for (const JobOutput& output : report.outputs) on_output(output, report);
}

void CallTable::on_output(const JobOutput& output, const StepReport& report) {
  const auto at = jobs_.find(output.id);
  if (at == jobs_.end()) return;  // cancelled
  JobPlace& job = at->second;
  ModelMetrics& metrics = metrics_.models[job.model];
  const CallId id = job.call;
  const std::size_t choice = job.choice;
  Call& call = active_.at(id);
  n_queued_tokens_ -= std::exchange(job.n_prompt, 0);
  if (output.output.token) {
    ++metrics.n_generation_tokens;
    if (++job.n_tokens == 1) {
      metrics.ttft.add(seconds_between(call.arrival, report.time));
    } else {
      metrics.inter_token.add(seconds_between(job.last_token, report.time));
    }
    job.last_token = report.time;
  }
  if (!output.error.empty()) return fail(id, {.message = output.error}, "error");
  const bool has_ended = output.output.finish.has_value();
  if (has_ended) {
    count_job(job, output.output.stats);
    --n_jobs_[job.model];
    jobs_.erase(at);
  }
  call.answer->add(choice, output, report.time);
  if (has_ended) ++metrics.finished[call.answer->finish_of(choice)];
  if (call.answer->is_done()) finish(id, call.answer->finish_of(choice));
}

void CallTable::count_job(const JobPlace& job, const RequestStats& stats) {
  ModelMetrics& metrics = metrics_.models[job.model];
  metrics.generation_tokens.add(static_cast<double>(job.n_tokens));
  metrics.n_cached_tokens += stats.n_cached;
  metrics.queue.add(stats.queue_seconds);
  metrics.prefill.add(stats.prefill_seconds);
  metrics.decode.add(stats.decode_seconds);
  metrics.inference.add(stats.prefill_seconds + stats.decode_seconds);
}

void CallTable::finish(CallId id, std::string_view reason) {
  Call* const call = find(id);
  if (call == nullptr) return;
  cancel_jobs(*call);
  const TimePoint now = Clock::now();
  if (call->answer) {
    ModelMetrics& metrics = metrics_.models[*call->model];
    metrics.n_prompt_tokens += call->n_prompt;
    metrics.prompt_tokens.add(static_cast<double>(call->n_prompt));
    metrics.e2e.add(seconds_between(call->arrival, now));
    const std::int64_t n_more = call->answer->usage().n_completion - 1;
    if (n_more > 0 && call->answer->n_choices() == 1) {
      metrics.per_output_token.add(seconds_between(*call->answer->first_token(), now) /
                                   static_cast<double>(n_more));
    }
  }
  const int status = call->answer ? call->answer->status() : 0;
  if (status != 0) ++metrics_.answered[status];
  log(*call, status, reason);
  erase(id);
}

void CallTable::cancel_jobs(Call& call) {
  for (const JobId id : call.jobs) {
    const auto at = jobs_.find(id);
    if (at == jobs_.end()) continue;
    const JobPlace& job = at->second;
    n_queued_tokens_ -= job.n_prompt;
    --n_jobs_[job.model];
    ++metrics_.models[job.model].finished["abort"];
    jobs_.erase(at);
    calls_.cancel(id);
  }
  call.jobs.clear();
}

/// Its model may go once nobody else holds it.
void CallTable::erase(CallId id) {
  const auto at = active_.find(id);
  const bool holds = at->second.served != nullptr;
  const auto model = at->second.model;
  active_.erase(at);
  if (holds) calls_.release(*model);
}

void CallTable::on_gone(CallId id) {
  Call* const call = find(id);
  if (call == nullptr) return;
  if (call->answer) call->answer->give_up();
  finish(id, "gone");
}

void CallTable::fail_all(const ApiError& error) {
  std::vector<CallId> left;
  for (const auto& [id, call] : active_) left.push_back(id);
  for (const CallId id : left) fail(id, error, "abort");
}

void CallTable::fail(CallId id, const ApiError& error, std::string_view reason) {
  Call* const call = find(id);
  if (call == nullptr) return;
  if (error.status == 503 && !drains_) ++metrics_.models[call->model.value_or(0)].n_rejected;
  if (call->answer) {
    call->answer->fail(error);
    return finish(id, reason);
  }
  HttpResponse response = to_response(error);
  // Repeating cannot help: the client is told so, because it repeats 5xx by itself.
  if (error.status >= 500 && error.retry_after == 0) {
    response.headers.emplace_back("x-should-retry", "false");
  }
  respond(*call, std::move(response));
  erase(id);
}

void CallTable::respond(const Call& call, HttpResponse response) {
  response.headers.insert(response.headers.end(), call.headers.begin(), call.headers.end());
  response.close = response.close || drains_;
  ++metrics_.answered[response.status];
  if (call.exchange->request().method == "POST") log(call, response.status, "");
  call.exchange->respond(std::move(response));
}

void CallTable::log(const Call& call, int status, std::string_view reason) const {
  if (!calls_.log) return;
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
  if (call.served) line["model"] = call.served->names.front();
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
  calls_.log(dump(line));
}

}  // namespace lowbit

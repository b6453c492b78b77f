// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/bench_serve.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <vector>

#include "lowbit/app/descriptor_limit.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/terminal.h"
#include "lowbit/compress/quantize.h"
#include "lowbit/measure/load_client.h"
#include "lowbit/measure/streamed_answer.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

constexpr int status_ok = 200;

/// Makes prompts of random parts of a text, no two alike, so that no cache can know them.
class Prompts {
 public:
  explicit Prompts(std::uint64_t seed) : random_(seed) {}

  /// Token ids, where the server takes and gives ids: prompts have exactly the length asked for.
  void use_ids(std::vector<std::int64_t> ids) { ids_ = std::move(ids); }
  /// Words otherwise: a prompt of n words has `per_word * n + fixed` tokens, as measured.
  void use_words(double per_word, double fixed) {
    per_word_ = per_word;
    fixed_ = fixed;
    std::istringstream text{std::string(self_test_text())};
    for (std::string word; text >> word;) words_.push_back(word);
  }
  void set_prefix(std::int64_t n_tokens) {
    if (n_tokens > 0) prefix_ = tokens(n_tokens, 0);
  }

  /// A string or a list of ids.
  ordered_json prompt(std::int64_t n_tokens) {
    ordered_json own = tokens(n_tokens, fixed_);
    if (prefix_.is_null()) return own;
    if (own.is_string()) return prefix_.get<std::string>() + " " + own.get<std::string>();
    ordered_json all = prefix_;
    all.insert(all.end(), own.begin(), own.end());
    return all;
  }
  /// Between n (1 - ratio) and n (1 + ratio), each equally likely.
  std::int64_t length(std::int64_t n, double ratio) {
    const auto mean = static_cast<double>(n);
    const auto least = static_cast<std::int64_t>(std::floor(mean * (1 - ratio)));
    const auto most = static_cast<std::int64_t>(std::ceil(mean * (1 + ratio)));
    return std::max<std::int64_t>(1, std::uniform_int_distribution(least, most)(random_));
  }

 private:
  template <class T>
  const T& any_of(const std::vector<T>& values) {
    return values[std::uniform_int_distribution<std::size_t>(0, values.size() - 1)(random_)];
  }
  ordered_json tokens(std::int64_t n_tokens, double n_fixed) {
    if (!ids_.empty()) {
      ordered_json ids = ordered_json::array();
      for (std::int64_t i = 0; i < n_tokens; ++i) ids.push_back(any_of(ids_));
      return ids;
    }
    const double n_words = (static_cast<double>(n_tokens) - n_fixed) / per_word_;
    std::string text;
    for (std::int64_t i = 0; i < std::max<std::int64_t>(1, std::llround(n_words)); ++i) {
      text += (i == 0 ? "" : " ") + any_of(words_);
    }
    return text;
  }

  std::mt19937_64 random_;
  std::vector<std::int64_t> ids_;
  std::vector<std::string> words_;
  double per_word_ = 1, fixed_ = 0;
  ordered_json prefix_;
};

std::string path_of(const ServeBenchRequest& request) {
  return request.endpoint == "chat" ? "/v1/chat/completions" : "/v1/completions";
}

/// Why a text cannot be --extra-body; empty: it can.
std::string refusal_of_extra(const std::string& text) {
  const ordered_json fields = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!fields.is_object()) return "no JSON object, such as '{\"temperature\": 1}'";
  for (const char* name : {"model", "prompt", "messages", "max_tokens", "max_completion_tokens",
                           "n", "best_of", "echo", "stream", "stream_options"}) {
    if (fields.contains(name)) return fmt::format("{} is set by the measurement", name);
  }
  return {};
}

std::string body_of(const ServeBenchRequest& request, const ordered_json& prompt,
                    std::int64_t n_output) {
  ordered_json body = {{"model", request.model}, {"max_tokens", n_output},
                       {"temperature", 0},       {"ignore_eos", true},
                       {"stream", true},         {"stream_options", {{"include_usage", true}}}};
  if (request.endpoint == "chat") {
    body["messages"] = ordered_json::array({{{"role", "user"}, {"content", prompt}}});
  } else {
    body["prompt"] = prompt;
  }
  body.update(ordered_json::parse(request.extra_body));
  return body.dump();
}

/// A whole answer as a JSON object; one that refuses is an error with its reason.
Result<ordered_json> ask_json(const ServerAddress& server, std::string_view method,
                              std::string_view path, std::string body = {}) {
  const auto reply = ask(server, method, path, std::move(body));
  if (!reply) return reply.error();
  if (reply->status != status_ok) {
    return Error(fmt::format("{}{} answered {}: {}", server.url(), path, reply->status,
                             refusal_in(reply->body)));
  }
  ordered_json json = ordered_json::parse(reply->body, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return Error(fmt::format("{}{} answered no JSON object", server.url(), path));
  }
  return json;
}

Result<std::string> first_model(const ServerAddress& server) {
  const auto models = ask_json(server, "GET", "/v1/models");
  if (!models) return models.error();
  const auto data = models->find("data");
  const bool has_one = data != models->end() && data->is_array() && !data->empty() &&
                       data->front().is_object() && data->front().contains("id") &&
                       data->front()["id"].is_string();
  if (!has_one) {
    return Error(fmt::format("{}/v1/models names no model; name one with -m", server.url()));
  }
  return data->front()["id"].get<std::string>();
}

/// What the server makes of our text (lowbit and vLLM read "prompt", llama-server "content"); empty
/// where it has no such route.
std::vector<std::int64_t> ids_from(const ServerAddress& server, const std::string& model) {
  const std::string text(self_test_text());
  const ordered_json body = {
      {"model", model}, {"prompt", text}, {"content", text}, {"add_special_tokens", false}};
  const auto reply = ask_json(server, "POST", "/tokenize", body.dump());
  if (!reply) return {};
  const auto tokens = reply->find("tokens");
  if (tokens == reply->end() || !tokens->is_array()) return {};
  std::vector<std::int64_t> ids;
  for (const auto& id : *tokens) {
    if (!id.is_number_integer()) return {};
    ids.push_back(id.get<std::int64_t>());
  }
  std::ranges::sort(ids);
  const auto doubles = std::ranges::unique(ids);
  ids.erase(doubles.begin(), doubles.end());
  return ids;
}

/// One request alone; its record, or why nothing works.
Result<RequestRecord> try_one(const ServerAddress& server, const ServeBenchRequest& request,
                              const ordered_json& prompt, std::int64_t n_planned) {
  Load load{.path = path_of(request),
            .bodies = {body_of(request, prompt, 1)},
            .n_input = {n_planned},
            .arrivals = {0}};
  auto result = run_load(server, load);
  if (!result) return std::move(result).error();
  RequestRecord record = std::move(result->records.front());
  if (!record.error.empty()) return Error(record.error);
  return record;
}

/// Asks the server what tokens are, and whether it answers at all.
Result<Prompts> make_prompts(const ServerAddress& server, const ServeBenchRequest& request) {
  Prompts prompts(request.seed);
  constexpr std::int64_t n_few = 8, n_more = 40;  // small: contexts may be
  if (request.endpoint == "completions") {
    if (auto ids = ids_from(server, request.model); !ids.empty()) {
      prompts.use_ids(std::move(ids));
      const auto tried = try_one(server, request, prompts.prompt(n_few), n_few);
      if (!tried) return tried.error();
      prompts.set_prefix(request.n_prefix);
      return prompts;
    }
  }
  prompts.use_words(1, 0);
  const auto few = try_one(server, request, prompts.prompt(n_few), n_few);
  if (!few) return few.error();
  const auto more = try_one(server, request, prompts.prompt(n_more), n_more);
  if (!more) return more.error();
  const double per_word =
      static_cast<double>(more->n_input - few->n_input) / static_cast<double>(n_more - n_few);
  if (per_word > 0) {
    prompts.use_words(per_word, static_cast<double>(few->n_input) - per_word * n_few);
  }
  prompts.set_prefix(request.n_prefix);
  return prompts;
}

void append(std::string& text, std::string_view name, std::string_view value) {
  text += fmt::format("{:<40} {:<10}\n", name, value);
}
void append(std::string& text, std::string_view name, std::int64_t value) {
  append(text, name, std::to_string(value));
}
void append(std::string& text, std::string_view name, double value) {
  append(text, name, fmt::format("{:.2f}", value));
}

struct LatencyRow {
  std::string_view key, name, title;
  const LatencySummary& summary;
};
std::vector<LatencyRow> latencies_of(const LoadReport& report) {
  return {{"ttft", "TTFT", "Time to First Token", report.ttft},
          {"tpot", "TPOT", "Time per Output Token (excl. 1st token)", report.tpot},
          {"itl", "ITL", "Inter-token Latency", report.itl},
          {"e2el", "E2EL", "End-to-end Latency", report.e2el}};
}

std::string to_text(const LoadReport& report, const ServeBenchRequest& request) {
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  append(text, "Successful requests:", report.n_completed);
  append(text, "Failed requests:", report.n_failed);
  if (request.max_concurrency > 0) {
    append(text, "Maximum request concurrency:", request.max_concurrency);
  }
  if (std::isfinite(request.request_rate)) {
    append(text, "Request rate configured (RPS):", request.request_rate);
  }
  append(text, "Benchmark duration (s):", report.seconds);
  append(text, "Total input tokens:", report.n_input);
  append(text, "Total generated tokens:", report.n_output);
  append(text, "Request throughput (req/s):", report.requests_per_second);
  append(text, "Output token throughput (tok/s):", report.output_per_second);
  append(text, "Peak output token throughput (tok/s):", report.peak_output_per_second);
  append(text, "Peak concurrent requests:", report.peak_requests);
  append(text, "Total token throughput (tok/s):", report.tokens_per_second);
  for (const LatencyRow& row : latencies_of(report)) {
    text += fmt::format("{:-^50}\n", row.title);
    append(text, fmt::format("Mean {} (ms):", row.name), row.summary.mean);
    append(text, fmt::format("Median {} (ms):", row.name), row.summary.median);
    append(text, fmt::format("P99 {} (ms):", row.name), row.summary.p99);
  }
  return text + fmt::format("{:=^50}\n", "");
}

/// The keys of vLLM's result file.
ordered_json to_json(const LoadReport& report, const std::vector<RequestRecord>& records,
                     const ServeBenchRequest& request) {
  ordered_json json = {{"endpoint_type", request.endpoint == "chat" ? "openai-chat" : "openai"},
                       {"model_id", request.model},
                       {"num_prompts", request.n_prompts},
                       {"request_rate", nullptr},
                       {"burstiness", request.burstiness},
                       {"max_concurrency", nullptr},
                       {"duration", report.seconds},
                       {"completed", report.n_completed},
                       {"failed", report.n_failed},
                       {"total_input_tokens", report.n_input},
                       {"total_output_tokens", report.n_output},
                       {"request_throughput", report.requests_per_second},
                       {"output_throughput", report.output_per_second},
                       {"total_token_throughput", report.tokens_per_second},
                       {"max_output_tokens_per_s", report.peak_output_per_second},
                       {"max_concurrent_requests", report.peak_requests}};
  json["request_rate"] = std::isfinite(request.request_rate) ? ordered_json(request.request_rate)
                                                             : ordered_json("inf");
  if (request.max_concurrency > 0) json["max_concurrency"] = request.max_concurrency;
  for (const LatencyRow& row : latencies_of(report)) {
    json[fmt::format("mean_{}_ms", row.key)] = row.summary.mean;
    json[fmt::format("median_{}_ms", row.key)] = row.summary.median;
    json[fmt::format("std_{}_ms", row.key)] = row.summary.deviation;
    json[fmt::format("p99_{}_ms", row.key)] = row.summary.p99;
  }
  if (!request.detailed) return json;
  for (const char* name :
       {"input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "errors"}) {
    json[name] = ordered_json::array();
  }
  for (const RequestRecord& record : records) {
    const bool failed = !record.error.empty();
    json["input_lens"].push_back(record.n_input);
    json["output_lens"].push_back(failed ? 0 : record.n_output);
    json["ttfts"].push_back(record.ttft);
    json["itls"].push_back(record.gaps);
    json["latencies"].push_back(record.latency);
    json["start_times"].push_back(record.start);
    json["errors"].push_back(record.error);
  }
  return json;
}

/// Each reason once, with how many requests it befell.
void warn_of_failures(const std::vector<RequestRecord>& records) {
  constexpr std::size_t most_lines = 10;
  std::map<std::string, int> reasons;
  for (const RequestRecord& record : records) {
    if (!record.error.empty()) ++reasons[record.error];
  }
  std::size_t n_lines = 0;
  for (const auto& [reason, n_requests] : reasons) {
    if (n_lines++ == most_lines) break;
    spdlog::warn("{} requests failed: {}", n_requests, reason);
  }
}

Load load_of(const ServeBenchRequest& request, Prompts& prompts) {
  Load load;
  load.path = path_of(request);
  load.max_concurrency = request.max_concurrency;
  load.arrivals = arrival_times(
      request.n_prompts,
      std::isfinite(request.request_rate) ? std::optional(request.request_rate) : std::nullopt,
      request.burstiness, request.seed);
  for (std::int64_t i = 0; i < request.n_prompts; ++i) {
    const std::int64_t n_input = prompts.length(request.n_input, request.range_ratio);
    const std::int64_t n_output = prompts.length(request.n_output, request.range_ratio);
    load.bodies.push_back(body_of(request, prompts.prompt(n_input), n_output));
    load.n_input.push_back(request.n_prefix + n_input);
  }
  return load;
}

}  // namespace

void add_serve_bench_options(CLI::App& command, ServeBenchRequest& request) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const CLI::Range count(std::int64_t{1}, most);
  CLI::Option* serve = command.add_option(
      "--serve", request.url,
      "load on the OpenAI-compatible server at this address (http://127.0.0.1:8000) instead; -m "
      "is then the name it serves the model under (the first of its list)");
  const auto group = [&](CLI::Option* option) { return option->needs(serve); };
  group(command.add_option("--num-prompts", request.n_prompts, "requests to send (100)"))
      ->check(count);
  group(command.add_option("--request-rate", request.request_rate,
                           "requests per second; inf: all at once (inf)"))
      ->check(CLI::PositiveNumber);
  group(command.add_option("--burstiness", request.burstiness,
                           "shape of the gamma distribution of their gaps (1: a Poisson process; "
                           "less comes in bursts, more is more even)"))
      ->check(CLI::Range(0.001, 1e6));
  group(command.add_option("--max-concurrency", request.max_concurrency,
                           "requests under way at once, at most (no limit)"))
      ->check(count);
  group(command.add_option("--random-input-len", request.n_input, "tokens of a prompt (1024)"))
      ->check(count);
  group(command.add_option("--random-output-len", request.n_output,
                           "tokens to generate; end tokens are ignored (128)"))
      ->check(count);
  group(command.add_option("--random-prefix-len", request.n_prefix,
                           "tokens before each prompt that all prompts share (0)"))
      ->check(CLI::Range(std::int64_t{0}, most));
  group(command.add_option("--random-range-ratio", request.range_ratio,
                           "lengths are drawn from length * (1 - ratio) to length * (1 + ratio) "
                           "(0)"))
      ->check(CLI::Range(0.0, 1.0));
  group(command.add_option("--endpoint", request.endpoint, "completions (default) or chat"))
      ->check(CLI::IsMember({"completions", "chat"}));
  group(command.add_option("--extra-body", request.extra_body,
                           "JSON object of more fields of every request, or of other values: "
                           "'{\"temperature\": 1}'"))
      ->check(CLI::Validator(refusal_of_extra, "JSON"));
  group(command.add_option("--api-key", request.api_key, "the key that the server asks for"));
  group(command.add_option("--seed", request.seed, "of prompts, lengths and arrivals (0)"));
  group(command.add_flag("--save-detailed", request.detailed,
                         "with --json: also the lists of all requests"));
}

Exit run_serve_bench(const ServeBenchRequest& asked) {
  ServeBenchRequest request = asked;
  auto server = parse_server_url(request.url);
  if (!server) return refuse(server.error());
  server->api_key = request.api_key;
  watch_interrupts();
  raise_descriptor_limit();
  if (request.model.empty()) {
    auto model = first_model(*server);
    if (!model) return fail(model.error());
    request.model = *std::move(model);
  }
  auto prompts = make_prompts(*server, request);
  if (!prompts) return fail(prompts.error());
  Load load = load_of(request, *prompts);
  Progress progress("asking");
  load.progress = [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  };
  const auto result = run_load(*server, load);
  if (!result) return fail(result.error());
  warn_of_failures(result->records);
  const LoadReport report = summarize(result->records, result->seconds);
  if (report.n_completed == 0) return fail(Error("no request succeeded"));
  return print_result(request.json ? to_json(report, result->records, request).dump() + "\n"
                                   : to_text(report, request));
}

}  // namespace lowbit::app

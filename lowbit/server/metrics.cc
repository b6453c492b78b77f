// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/metrics.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace lowbit {
namespace {

// vLLM's buckets, in seconds and tokens.
constexpr std::array ttft_bounds{.001, .005, .01, .02, .04, .06, .08, .1,  .25,  .5,   .75,
                                 1.0,  2.5,  5.0, 7.5, 10., 20., 40., 80., 160., 640., 2560.};
constexpr std::array token_bounds{.01, .025, .05, .075, .1,  .15, .2,  .3,  .4, .5,
                                  .75, 1.0,  2.5, 5.0,  7.5, 10., 20., 40., 80.};
constexpr std::array request_bounds{.3,  .5,  .8,  1.0, 1.5,  2.0,  2.5,  5.0,  10.,   15.,  20.,
                                    30., 40., 50., 60., 120., 240., 480., 960., 1920., 7680.};
constexpr std::array length_bounds{1.,   2.,    5.,    10.,   20.,    50.,    100.,   200.,
                                   500., 1000., 2000., 5000., 10000., 20000., 50000., 100000.};
constexpr std::array choice_bounds{1., 2., 5., 10., 20.};
constexpr std::array step_bounds{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1.0, 2.0, 5.0};

std::string label_value(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\' || c == '"') escaped += '\\';
    if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

class Page {
 public:
  explicit Page(const std::string& model_name)
      : labels_(fmt::format("model_name=\"{}\",engine=\"0\"", label_value(model_name))) {}

  void head(std::string_view name, std::string_view type, std::string_view help) {
    text_ += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  template <class T>
  void value(std::string_view name, T value, std::string_view more_labels = "") {
    text_ += fmt::format("{}{{{}{}{}}} {}\n", name, labels_, more_labels.empty() ? "" : ",",
                         more_labels, value);
  }
  template <class T>
  void gauge(std::string_view name, T number, std::string_view help) {
    head(name, "gauge", help);
    value(name, number);
  }
  template <class T>
  void counter(std::string_view name, T number, std::string_view help) {
    head(name, "counter", help);
    value(name, number);
  }
  void histogram(std::string_view name, const Histogram& histogram, std::string_view help) {
    head(name, "histogram", help);
    text_ += histogram.text(name, labels_);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string labels_, text_;
};

}  // namespace

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds), counts_(bounds.size() + 1) {}

void Histogram::add(double value) {
  const auto at = std::ranges::lower_bound(bounds_, value);
  ++counts_[static_cast<std::size_t>(at - bounds_.begin())];
  sum_ += value;
}

std::string Histogram::text(std::string_view name, std::string_view labels) const {
  std::string text;
  std::int64_t n_so_far = 0;
  for (std::size_t i = 0; i < bounds_.size(); ++i) {
    n_so_far += counts_[i];
    text += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bounds_[i], n_so_far);
  }
  n_so_far += counts_.back();
  text += fmt::format("{}_bucket{{{},le=\"+Inf\"}} {}\n", name, labels, n_so_far);
  text += fmt::format("{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name, labels, sum_, n_so_far);
  return text;
}

Metrics::Metrics()
    : ttft(ttft_bounds),
      inter_token(token_bounds),
      per_output_token(token_bounds),
      e2e(request_bounds),
      prompt_tokens(length_bounds),
      generation_tokens(length_bounds),
      max_tokens(length_bounds),
      n_choices(choice_bounds),
      step(step_bounds) {}

std::string Metrics::text(const std::string& model_name) const {
  Page page(model_name);
  page.gauge("vllm:num_requests_running", engine.n_running, "Requests in the running batch.");
  page.gauge("vllm:num_requests_waiting", engine.n_waiting, "Requests waiting to be admitted.");
  page.gauge("vllm:kv_cache_usage_perc", engine.kv_usage(), "KV cache in use; 1 is all of it.");
  page.head("vllm:cache_config_info", "gauge", "Size of the KV cache.");
  page.value("vllm:cache_config_info", 1,
             fmt::format("block_size=\"{}\",num_gpu_blocks=\"{}\"", kv_block_positions,
                         engine.n_kv_blocks));
  page.counter("vllm:prompt_tokens_total", n_prompt_tokens, "Prompt tokens.");
  page.counter("vllm:generation_tokens_total", n_generation_tokens, "Generated tokens.");
  page.counter("vllm:num_preemptions_total", engine.scheduler.n_preemptions, "Sequences put back.");
  page.counter("vllm:prefix_cache_queries_total", engine.scheduler.n_queried_tokens,
               "Prompt tokens looked up in the prefix cache.");
  page.counter("vllm:prefix_cache_hits_total", engine.scheduler.n_found_tokens, "Of them, found.");
  page.counter("vllm:admission_rejections_total", n_rejected, "Requests refused: queue full.");
  page.head("vllm:request_success_total", "counter", "Requests that ended, by reason.");
  for (const auto& [reason, n_requests] : finished) {
    page.value("vllm:request_success_total", n_requests,
               fmt::format("finished_reason=\"{}\"", reason));
  }
  page.histogram("vllm:time_to_first_token_seconds", ttft, "From arrival to the first token.");
  page.histogram("vllm:inter_token_latency_seconds", inter_token, "Between tokens of a request.");
  page.histogram("vllm:request_time_per_output_token_seconds", per_output_token,
                 "Mean time per token after the first, of one request.");
  page.histogram("vllm:e2e_request_latency_seconds", e2e, "From arrival to the last token.");
  page.histogram("vllm:request_prompt_tokens", prompt_tokens, "Prompt tokens of a request.");
  page.histogram("vllm:request_generation_tokens", generation_tokens,
                 "Generated tokens of a request.");
  page.histogram("vllm:request_params_max_tokens", max_tokens, "max_tokens of a request.");
  page.histogram("vllm:request_params_n", n_choices, "n of a request.");
  page.histogram("lowbit:step_seconds", step, "Time of one forward pass of the batch.");
  page.gauge("lowbit:weight_bytes", weight_bytes, "Packed weights.");
  page.gauge("lowbit:kv_bytes", engine.n_kv_blocks * engine.kv_block_bytes, "The KV cache.");
  page.gauge("lowbit:connections", n_connections, "Open connections.");
  page.head("lowbit:http_requests_total", "counter", "HTTP requests answered, by status.");
  for (const auto& [status, n_requests] : answered) {
    page.value("lowbit:http_requests_total", n_requests, fmt::format("status=\"{}\"", status));
  }
  page.head("lowbit:build_info", "gauge", "The version of the server.");
  page.value("lowbit:build_info", 1, "version=\"" LOWBIT_VERSION "\"");
  return page.take();
}

}  // namespace lowbit

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
constexpr std::array step_token_bounds{1.,   8.,    16.,   32.,   64.,   128.,  256.,
                                       512., 1024., 2048., 4096., 8192., 16384.};
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

double kv_bytes_in_use(const EngineStats& engine) {
  return static_cast<double>((engine.n_kv_blocks - engine.n_kv_blocks_free) *
                             engine.kv_block_bytes);
}

/// One family after the other, as the format wants it: a head, then the series of all models.
class Page {
 public:
  Page(std::span<const ModelMetrics> models, std::span<const std::string> names) : models_(models) {
    for (const std::string& name : names) {
      labels_.push_back(fmt::format("model_name=\"{}\",engine=\"0\"", label_value(name)));
    }
  }

  void head(std::string_view name, std::string_view type, std::string_view help) {
    text_ += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  template <class T>
  void series(std::string_view name, std::string_view labels, T number) {
    text_ += fmt::format("{}{{{}}} {}\n", name, labels, number);
  }
  /// number(model) of every model.
  template <class Number>
  void each(std::string_view name, std::string_view type, std::string_view help, Number&& number) {
    head(name, type, help);
    for (std::size_t i = 0; i < models_.size(); ++i) series(name, labels_[i], number(models_[i]));
  }
  template <class Number>
  void gauge(std::string_view name, std::string_view help, Number&& number) {
    each(name, "gauge", help, number);
  }
  template <class Number>
  void counter(std::string_view name, std::string_view help, Number&& number) {
    each(name, "counter", help, number);
  }
  void histogram(std::string_view name, std::string_view help, Histogram ModelMetrics::*which) {
    head(name, "histogram", help);
    for (std::size_t i = 0; i < models_.size(); ++i) {
      text_ += (models_[i].*which).text(name, labels_[i]);
    }
  }
  std::span<const ModelMetrics> models() const { return models_; }
  const std::string& labels(std::size_t model) const { return labels_[model]; }
  std::string take() { return std::move(text_); }

 private:
  std::span<const ModelMetrics> models_;
  std::vector<std::string> labels_;
  std::string text_;
};

using M = ModelMetrics;

void write_requests(Page& page) {
  page.gauge("vllm:num_requests_running", "Requests in the running batch.",
             [](const M& m) { return m.engine.n_running; });
  page.gauge("vllm:num_requests_waiting", "Requests waiting to be admitted, or for the model.",
             [](const M& m) { return m.engine.n_waiting + m.n_waiting_for_load; });
  page.counter("vllm:prompt_tokens_total", "Prompt tokens.",
               [](const M& m) { return m.n_prompt_tokens; });
  page.counter("vllm:prompt_tokens_cached_total", "Of them, found in the KV cache.",
               [](const M& m) { return m.n_cached_tokens; });
  page.counter("vllm:generation_tokens_total", "Generated tokens.",
               [](const M& m) { return m.n_generation_tokens; });
  page.counter("vllm:num_preemptions_total", "Sequences put back.",
               [](const M& m) { return m.scheduler().n_preemptions; });
  page.counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
               [](const M& m) { return m.scheduler().n_queried_tokens; });
  page.counter("vllm:prefix_cache_hits_total", "Of them, found.",
               [](const M& m) { return m.scheduler().n_found_tokens; });
  page.counter("vllm:admission_rejections_total", "Requests refused: queue full.",
               [](const M& m) { return m.n_rejected; });
  page.head("vllm:request_success_total", "counter", "Requests that ended, by reason.");
  for (std::size_t i = 0; i < page.models().size(); ++i) {
    for (const auto& [reason, n_requests] : page.models()[i].finished) {
      page.series("vllm:request_success_total",
                  fmt::format("{},finished_reason=\"{}\"", page.labels(i), reason), n_requests);
    }
  }
}

void write_times(Page& page) {
  page.histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.", &M::ttft);
  page.histogram("vllm:inter_token_latency_seconds", "Between tokens of a request.",
                 &M::inter_token);
  page.histogram("vllm:request_time_per_output_token_seconds",
                 "Mean time per token after the first, of one request.", &M::per_output_token);
  page.histogram("vllm:e2e_request_latency_seconds", "From arrival to the last token.", &M::e2e);
  page.histogram("vllm:request_queue_time_seconds", "From the engine's queue to its batch.",
                 &M::queue);
  page.histogram("vllm:request_prefill_time_seconds", "From the batch to the first token.",
                 &M::prefill);
  page.histogram("vllm:request_decode_time_seconds", "From the first token to the last.",
                 &M::decode);
  page.histogram("vllm:request_inference_time_seconds", "From the batch to the last token.",
                 &M::inference);
  page.histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", &M::prompt_tokens);
  page.histogram("vllm:request_generation_tokens", "Generated tokens of a request.",
                 &M::generation_tokens);
  page.histogram("vllm:request_params_max_tokens", "max_tokens of a request.", &M::max_tokens);
  page.histogram("vllm:request_params_n", "n of a request.", &M::n_choices);
  page.histogram("vllm:iteration_tokens_total", "Tokens of one step.", &M::step_tokens);
  page.histogram("lowbit:step_seconds", "Time of one forward pass of the batch.", &M::step);
}

void write_machine(Page& page, std::chrono::steady_clock::time_point now) {
  page.gauge("vllm:kv_cache_usage_perc", "KV cache in use; 1 is all of it.",
             [](const M& m) { return m.engine.kv_usage(); });
  page.head("vllm:cache_config_info", "gauge", "Size of the KV cache.");
  for (std::size_t i = 0; i < page.models().size(); ++i) {
    page.series("vllm:cache_config_info",
                fmt::format("{},block_size=\"{}\",num_gpu_blocks=\"{}\"", page.labels(i),
                            kv_block_positions, page.models()[i].engine.n_kv_blocks),
                1);
  }
  page.gauge("lowbit:weight_bytes", "Packed weights.", [](const M& m) { return m.weight_bytes; });
  page.gauge("lowbit:kv_bytes", "The KV cache, all of it taken at start.",
             [](const M& m) { return m.engine.n_kv_blocks * m.engine.kv_block_bytes; });
  page.gauge("lowbit:kv_used_bytes", "Keys and values of running requests.",
             [](const M& m) { return kv_bytes_in_use(m.engine); });
  page.gauge("lowbit:kv_cached_bytes", "Keys and values of nobody, kept as prefix cache.",
             [](const M& m) { return m.engine.n_kv_blocks_cached * m.engine.kv_block_bytes; });
  page.gauge("lowbit:model_loaded", "1 while the model is loaded.",
             [](const M& m) { return m.is_loaded ? 1 : 0; });
  page.counter("lowbit:model_loads_total", "How often it was loaded.",
               [](const M& m) { return m.n_loads; });
  page.gauge("lowbit:dram_gbps", "Weights, keys and values read by the last steps, 10^9 bytes/s.",
             [&](const M& m) { return m.recent.gbs(now); });
  page.gauge("lowbit:roof_fraction",
             "Time the last steps could have taken at the measured roofs, over what they took.",
             [&](const M& m) { return m.recent.fraction(now); });
  page.counter("lowbit:step_bytes_total", "Weights, keys and values read by all steps.",
               [](const M& m) { return m.decode_bytes; });
  page.counter("lowbit:roof_seconds_total", "Time that all steps could have taken at the roofs.",
               [](const M& m) { return m.roof_seconds; });
  page.gauge("lowbit:roof_read_gbps", "Measured read bandwidth for this model's weights.",
             [](const M& m) { return m.roof.roofs.read_gbs; });
}

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

void RecentRoof::add(double least_seconds, double n_bytes, double seconds, TimePoint now) {
  constexpr double kept = 1 - 1.0 / 64;  // of what was, with every step
  if (!is_recent(now)) least_seconds_ = n_bytes_ = seconds_ = 0;
  least_seconds_ = kept * least_seconds_ + least_seconds;
  n_bytes_ = kept * n_bytes_ + n_bytes;
  seconds_ = kept * seconds_ + seconds;
  last_ = now;
}

bool RecentRoof::is_recent(TimePoint now) const {
  constexpr std::chrono::seconds lately(5);
  return seconds_ > 0 && now - last_ < lately;
}

ModelMetrics::ModelMetrics()
    : ttft(ttft_bounds),
      inter_token(token_bounds),
      per_output_token(token_bounds),
      e2e(request_bounds),
      queue(request_bounds),
      prefill(request_bounds),
      decode(request_bounds),
      inference(request_bounds),
      prompt_tokens(length_bounds),
      generation_tokens(length_bounds),
      max_tokens(length_bounds),
      n_choices(choice_bounds),
      step(step_bounds),
      step_tokens(step_token_bounds) {}

void ModelMetrics::on_loaded(const ServedModel& model) {
  is_loaded = true;
  ++n_loads;
  weight_bytes = model.weight_bytes;
  roof = model.roof;
}

void ModelMetrics::on_unloaded() {
  is_loaded = false;
  weight_bytes = 0;
  before_ = scheduler();
  engine = {};
}

SchedulerStats ModelMetrics::scheduler() const {
  return {before_.n_preemptions + engine.scheduler.n_preemptions,
          before_.n_queried_tokens + engine.scheduler.n_queried_tokens,
          before_.n_found_tokens + engine.scheduler.n_found_tokens};
}

void ModelMetrics::on_step(const StepReport& report) {
  if (!is_loaded) return;  // a last word of an engine that is gone
  const bool has_computed = report.state.n_steps > engine.n_steps;
  engine = report.state;
  if (!has_computed) return;
  const double seconds = engine.step.seconds;
  const double kv_bytes = kv_bytes_in_use(engine), n_bytes = roof.bytes(kv_bytes);
  roof.raise_to(engine.step, kv_bytes);
  const double least_seconds = roof.least_seconds(engine.step, kv_bytes);
  step.add(seconds);
  step_tokens.add(static_cast<double>(engine.step.n_decodes + engine.step.n_prompt_tokens));
  decode_bytes += n_bytes;
  roof_seconds += least_seconds;
  recent.add(least_seconds, n_bytes, seconds, report.time);
}

std::string Metrics::text(std::span<const std::string> names,
                          std::chrono::steady_clock::time_point now) const {
  Page page(models, names);
  write_requests(page);
  write_times(page);
  write_machine(page, now);
  const auto gauge = [&](std::string_view name, std::int64_t number, std::string_view help) {
    page.head(name, "gauge", help);
    page.series(name, "engine=\"0\"", number);
  };
  gauge("lowbit:connections", n_connections, "Open connections.");
  gauge("lowbit:memory_budget_bytes", memory_bytes, "What all loaded models may take.");
  gauge("lowbit:memory_used_bytes", memory_used_bytes, "What they take: weights and KV caches.");
  page.head("lowbit:http_requests_total", "counter", "HTTP requests answered, by status.");
  for (const auto& [status, n_requests] : answered) {
    page.series("lowbit:http_requests_total", fmt::format("status=\"{}\"", status), n_requests);
  }
  page.head("lowbit:build_info", "gauge", "The version of the server.");
  page.series("lowbit:build_info", "version=\"" LOWBIT_VERSION "\"", 1);
  return page.take();
}

}  // namespace lowbit

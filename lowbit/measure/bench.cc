// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

namespace lowbit {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double giga = 1e9;
constexpr std::int64_t tokens_per_step = 512;  // llama-bench's ubatch
constexpr std::uint32_t token_seed = 1;

/// A fresh sequence each time; tokens drawn once, evenly over the vocabulary.
class Runner {
 public:
  static Result<std::unique_ptr<Runner>> create(LoadedModel& model, std::int64_t n_positions) {
    auto cache = KvCache::create(model.backend(), model.kv_shape(), n_positions);
    if (!cache) return std::move(cache).error();
    return std::unique_ptr<Runner>(new Runner(model, std::move(*cache), n_positions));
  }
  ~Runner() { cache_.release(sequence_); }

  Status restart() {
    cache_.release(sequence_);
    sequence_ = KvSequence();
    position_ = 0;
    if (!cache_.grow(sequence_, n_positions_))
      return Error("the KV cache has no room for the benchmark");
    return ok();
  }
  void prefill(std::int64_t n_tokens) {
    while (n_tokens > 0) {
      const std::int64_t n = std::min(n_tokens, tokens_per_step);
      n_tokens -= n;
      step(n, /*n_logits=*/n_tokens == 0 ? 1 : 0);
    }
  }
  void decode(std::int64_t n_tokens) {
    for (std::int64_t i = 0; i < n_tokens; ++i) step(1, /*n_logits=*/1);
  }

 private:
  Runner(LoadedModel& model, KvCache cache, std::int64_t n_positions)
      : cache_(std::move(cache)),
        forward_(model.backend(), model.weights(), tokens_per_step),
        n_positions_(n_positions) {
    std::mt19937 engine(token_seed);
    const auto n_vocab = static_cast<std::uint32_t>(model.weights().config.n_vocab);
    for (std::int64_t i = 0; i < n_positions; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(engine() % n_vocab));
    }
  }
  void step(std::int64_t n_tokens, std::int64_t n_logits) {
    const StepSequence step{{tokens_.data() + position_, static_cast<std::size_t>(n_tokens)},
                            position_,
                            &sequence_,
                            n_logits};
    forward_.run({&step, 1}, cache_);
    position_ += n_tokens;
  }

  KvCache cache_;
  KvSequence sequence_;
  Forward forward_;
  std::int64_t n_positions_, position_ = 0;
  std::vector<std::int32_t> tokens_;
};

/// Counts what a backend does while it lives.
class Profiled {
 public:
  Profiled(Backend& backend, bool on) : backend_(backend) { backend_.count(on); }
  ~Profiled() { backend_.count(false); }
  Profiled(const Profiled&) = delete;
  Profiled& operator=(const Profiled&) = delete;

 private:
  Backend& backend_;
};

/// Repetitions of a phase, the first one not counted. before(): what each needs and is not timed.
template <class Before, class Work>
Result<std::vector<double>> timed(int n_repetitions, Before&& before, Work&& work) {
  std::vector<double> seconds;
  for (int i = 0; i <= n_repetitions; ++i) {
    if (Status status = before(i); !status) return std::move(status).error();
    const auto start = Clock::now();
    work(i);
    if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return seconds;
}

}  // namespace

double BenchRow::median_seconds() const {
  std::vector<double> sorted = seconds;
  std::ranges::sort(sorted);
  const std::size_t n = sorted.size();
  return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
double BenchRow::least_tokens_per_second() const {
  return static_cast<double>(n_tokens) / *std::ranges::max_element(seconds);
}
double BenchRow::most_tokens_per_second() const {
  return static_cast<double>(n_tokens) / *std::ranges::min_element(seconds);
}

Result<std::vector<BenchRow>> bench_model(LoadedModel& model, const Roofs& roofs,
                                          const BenchOptions& options) {
  const std::int64_t n_positions = options.n_depth + std::max(options.n_prompt, options.n_generate);
  if (n_positions > model.weights().config.n_ctx_train) {
    return Error(fmt::format("{} tokens at depth {} are beyond the model's context of {}",
                             n_positions - options.n_depth, options.n_depth,
                             model.weights().config.n_ctx_train));
  }
  auto runner = Runner::create(model, n_positions);
  if (!runner) return std::move(runner).error();
  const ModelWork work = work_of(model);
  const std::int64_t n_total = 2 * (options.n_repetitions + 1);
  std::int64_t n_done = 0;
  const auto before = [&](int) -> Status {
    if (options.progress && !options.progress(n_done++, n_total)) return Error("interrupted");
    if (Status status = (*runner)->restart(); !status) return status;
    (*runner)->prefill(options.n_depth);
    return ok();
  };

  std::vector<BenchRow> rows;
  const auto add_row = [&](const char* phase, std::int64_t n_tokens, std::vector<double> seconds,
                           double n_heads) {
    BenchRow row{.phase = phase, .n_tokens = n_tokens, .seconds = std::move(seconds)};
    row.counters = model.backend().take_counters();
    const auto n = static_cast<double>(n_tokens);
    const double int8_ops = n * work.int8_ops + n_heads * work.head_int8_ops;
    const double f32_ops = n * work.f32_ops + n_heads * work.head_f32_ops;
    row.gops = (int8_ops + f32_ops) / row.median_seconds() / giga;
    if (row.phase == "decode") {
      row.gbs = n * static_cast<double>(work.decode_bytes) / row.median_seconds() / giga;
      row.of_roof = row.gbs / roofs.read_gbs;
    } else {
      row.of_roof =
          (int8_ops / roofs.int8_gops + f32_ops / roofs.f32_gflops) / giga / row.median_seconds();
    }
    rows.push_back(std::move(row));
  };
  if (options.n_prompt > 0) {
    auto seconds = timed(options.n_repetitions, before, [&](int i) {
      const Profiled profiled(model.backend(), options.profile && i > 0);
      (*runner)->prefill(options.n_prompt);
    });
    if (!seconds) return std::move(seconds).error();
    add_row("prefill", options.n_prompt, std::move(*seconds), /*n_heads=*/1);
  }
  if (options.n_generate > 0) {
    auto seconds = timed(options.n_repetitions, before, [&](int i) {
      const Profiled profiled(model.backend(), options.profile && i > 0);
      (*runner)->decode(options.n_generate);
    });
    if (!seconds) return std::move(seconds).error();
    add_row("decode", options.n_generate, std::move(*seconds),
            static_cast<double>(options.n_generate));
  }
  return rows;
}

}  // namespace lowbit

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

/// Sequences of tokens drawn once, evenly over the vocabulary. What stands at a position never
/// changes, so a repetition only goes back and overwrites the same keys and values with the same
/// bits.
class Runner {
 public:
  static Result<std::unique_ptr<Runner>> create(LoadedModel& model, std::int64_t n_positions,
                                                std::int64_t n_sequences) {
    const std::int64_t n_blocks = n_sequences * KvCache::n_blocks_for(n_positions);
    auto cache = KvCache::create(model.backend(), model.kv_shape(), n_blocks * kv_block_positions);
    if (!cache) return std::move(cache).error();
    std::unique_ptr<Runner> runner(new Runner(model, std::move(*cache), n_sequences));
    std::mt19937 engine(token_seed);
    const auto n_vocab = static_cast<std::uint32_t>(model.weights().config.n_vocab);
    for (Sequence& sequence : runner->sequences_) {
      if (!runner->cache_.grow(sequence.kv, n_positions)) {
        return Error("the KV cache has no room for the benchmark");
      }
      for (std::int64_t i = 0; i < n_positions; ++i) {
        sequence.tokens.push_back(static_cast<std::int32_t>(engine() % n_vocab));
      }
    }
    return runner;
  }
  ~Runner() {
    for (Sequence& sequence : sequences_) cache_.release(sequence.kv);
  }
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  /// The first n sequences stand at this position, everything before it is in the cache.
  void go_to(std::int64_t position, std::int64_t n_sequences) {
    for (std::int64_t i = 0; i < n_sequences; ++i) {
      Sequence& sequence = sequences_[static_cast<std::size_t>(i)];
      sequence.position = std::min(sequence.n_filled, position);
      read(sequence, position - sequence.position, /*n_logits=*/0);
    }
  }
  void prefill(std::int64_t n_tokens) { read(sequences_.front(), n_tokens, /*n_logits=*/1); }
  void decode(std::int64_t n_tokens, std::int64_t n_sequences) {
    const std::span<Sequence> batch(sequences_.data(), static_cast<std::size_t>(n_sequences));
    for (std::int64_t i = 0; i < n_tokens; ++i) step(batch, 1, /*n_logits=*/1);
  }

  double kv_bytes_per_position() const {
    return static_cast<double>(cache_.block_bytes()) / static_cast<double>(kv_block_positions);
  }

 private:
  struct Sequence {
    std::vector<std::int32_t> tokens;
    KvSequence kv;
    std::int64_t position = 0, n_filled = 0;
  };

  Runner(LoadedModel& model, KvCache cache, std::int64_t n_sequences)
      : cache_(std::move(cache)),
        forward_(model.backend(), model.weights(), std::max(tokens_per_step, n_sequences)),
        sequences_(static_cast<std::size_t>(n_sequences)) {}

  void read(Sequence& sequence, std::int64_t n_tokens, std::int64_t n_logits) {
    while (n_tokens > 0) {
      const std::int64_t n = std::min(n_tokens, tokens_per_step);
      n_tokens -= n;
      step({&sequence, 1}, n, n_tokens == 0 ? n_logits : 0);
    }
  }
  void step(std::span<Sequence> sequences, std::int64_t n_tokens, std::int64_t n_logits) {
    steps_.clear();
    for (Sequence& sequence : sequences) {
      steps_.push_back(
          {{sequence.tokens.data() + sequence.position, static_cast<std::size_t>(n_tokens)},
           sequence.position,
           &sequence.kv,
           n_logits});
      sequence.position += n_tokens;
      sequence.n_filled = std::max(sequence.n_filled, sequence.position);
    }
    forward_.run(steps_, cache_);
  }

  KvCache cache_;
  Forward forward_;
  std::vector<Sequence> sequences_;
  std::vector<StepSequence> steps_;
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

class ModelBench {
 public:
  ModelBench(LoadedModel& model, Runner& runner, const Roofs& roofs, const BenchOptions& options)
      : model_(model), runner_(runner), roofs_(roofs), options_(options), work_(work_of(model)) {
    const auto count = [](std::span<const std::int64_t> values) {
      return std::ranges::count_if(values, [](std::int64_t n) { return n > 0; });
    };
    const std::int64_t n_decodes = options.n_generate > 0 ? count(options.batches) : 0;
    n_total_ = static_cast<std::int64_t>(options.depths.size()) *
               (count(options.prompts) + n_decodes) * (options.n_repetitions + 1);
  }

  Result<BenchRow> prefill(std::int64_t n_tokens, std::int64_t n_depth) {
    BenchRow row{"prefill", n_tokens, n_depth, 1, {}, {}, 0, 0, {}, 0};
    if (Status status = repeat(row, [&] { runner_.prefill(n_tokens); }); !status) {
      return std::move(status).error();
    }
    const auto n = static_cast<double>(n_tokens);
    const double at_roof = rate(row, n, /*n_heads=*/1);
    row.of_roof = at_roof / row.median_seconds();
    return row;
  }

  Result<BenchRow> decode(std::int64_t n_batch, std::int64_t n_depth) {
    BenchRow row{"decode", options_.n_generate, n_depth, n_batch, {}, {}, 0, 0, {}, 0};
    if (Status status = repeat(row, [&] { runner_.decode(row.n_tokens, n_batch); }); !status) {
      return std::move(status).error();
    }
    const auto n_steps = static_cast<double>(row.n_tokens),
               n = n_steps * static_cast<double>(n_batch);
    const double computing = rate(row, n, /*n_heads=*/n);
    // Token i reads the keys and values of the depth and of the i tokens before it.
    const double positions = static_cast<double>(n_depth) + (n_steps + 1) / 2;
    const double n_bytes = n_steps * static_cast<double>(work_.decode_bytes) +
                           n * positions * runner_.kv_bytes_per_position();
    row.gbs = n_bytes / row.median_seconds() / giga;
    row.of_roof = std::max(n_bytes / giga / roofs_.read_gbs, computing) / row.median_seconds();
    return row;
  }

 private:
  /// Sets the row's operations per second; the time that they take at the roofs.
  double rate(BenchRow& row, double n_tokens, double n_heads) const {
    const double int8_ops = n_tokens * work_.int8_ops + n_heads * work_.head_int8_ops;
    const double f32_ops = n_tokens * work_.f32_ops + n_heads * work_.head_f32_ops;
    row.gops = (int8_ops + f32_ops) / row.median_seconds() / giga;
    return (int8_ops / roofs_.int8_gops + f32_ops / roofs_.f32_gflops) / giga;
  }

  /// Repetitions of a phase, the first one not counted.
  template <class Work>
  Status repeat(BenchRow& row, Work&& work) {
    for (int i = 0; i <= options_.n_repetitions; ++i) {
      if (options_.progress && !options_.progress(n_done_++, n_total_)) return Error("interrupted");
      runner_.go_to(row.n_depth, row.n_batch);
      const Profiled profiled(model_.backend(), options_.profile && i > 0);
      if (Status status = read_energy(nullptr); !status) return status;
      const auto start = Clock::now();
      work();
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (i == 0) continue;
      row.seconds.push_back(seconds);
      if (Status status = read_energy(&row); !status) return status;
    }
    row.counters = model_.backend().take_counters();
    return ok();
  }
  Status read_energy(BenchRow* row) {
    if (options_.energy == nullptr) return ok();
    const auto joules = options_.energy->joules();
    if (!joules) return joules.error();
    if (row != nullptr) row->joules = row->joules.value_or(0) + *joules;
    return ok();
  }

  LoadedModel& model_;
  Runner& runner_;
  const Roofs& roofs_;
  const BenchOptions& options_;
  ModelWork work_;
  std::int64_t n_done_ = 0, n_total_ = 0;
};

}  // namespace

double BenchRow::median_seconds() const {
  std::vector<double> sorted = seconds;
  std::ranges::sort(sorted);
  const std::size_t n = sorted.size();
  return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
double BenchRow::least_tokens_per_second() const {
  return static_cast<double>(n_all_tokens()) / *std::ranges::max_element(seconds);
}
double BenchRow::most_tokens_per_second() const {
  return static_cast<double>(n_all_tokens()) / *std::ranges::min_element(seconds);
}
std::optional<double> BenchRow::joules_per_token() const {
  if (!joules) return std::nullopt;
  return *joules / static_cast<double>(n_all_tokens()) / static_cast<double>(seconds.size());
}

Result<std::vector<BenchRow>> bench_model(LoadedModel& model, const Roofs& roofs,
                                          const BenchOptions& options) {
  const std::int64_t most_prompt = options.prompts.empty() ? 0 : std::ranges::max(options.prompts);
  const std::int64_t most_batch =
      options.batches.empty() || options.n_generate == 0 ? 1 : std::ranges::max(options.batches);
  const std::int64_t most_depth = options.depths.empty() ? 0 : std::ranges::max(options.depths);
  const std::int64_t n_positions = most_depth + std::max(most_prompt, options.n_generate);
  if (n_positions > model.weights().config.n_ctx_train) {
    return Error(fmt::format("{} tokens at depth {} are beyond the model's context of {}",
                             n_positions - most_depth, most_depth,
                             model.weights().config.n_ctx_train));
  }
  auto runner = Runner::create(model, n_positions, std::max<std::int64_t>(most_batch, 1));
  if (!runner) return std::move(runner).error();
  ModelBench bench(model, **runner, roofs, options);
  std::vector<BenchRow> rows;
  for (const std::int64_t depth : options.depths) {
    for (const std::int64_t prompt : options.prompts) {
      if (prompt == 0) continue;
      auto row = bench.prefill(prompt, depth);
      if (!row) return std::move(row).error();
      rows.push_back(*std::move(row));
    }
    for (const std::int64_t batch : options.batches) {
      if (options.n_generate == 0 || batch == 0) continue;
      auto row = bench.decode(batch, depth);
      if (!row) return std::move(row).error();
      rows.push_back(*std::move(row));
    }
  }
  return rows;
}

}  // namespace lowbit

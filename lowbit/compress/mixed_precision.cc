// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/mixed_precision.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "lowbit/compress/allocate.h"

namespace lowbit {
namespace {

constexpr double bits_per_byte = 8;

/// The leading number of a text; what follows it is left in `rest`.
std::optional<double> leading_number(std::string_view text, std::string_view& rest) {
  double number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || !std::isfinite(number) || number <= 0) return std::nullopt;
  rest = text.substr(static_cast<std::size_t>(end - text.data()));
  return number;
}

std::string megabytes(std::int64_t n_bytes) {
  return fmt::format("{:.2f} MB", static_cast<double>(n_bytes) * 1e-6);
}

/// What is decided about one group: which tensors are open, and what they may become.
struct OpenGroup {
  const GroupSensitivity* sensitivity = nullptr;
  std::vector<const ModelTensor*> tensors;
  std::vector<Candidate> candidates;
  std::vector<std::size_t> schemes;  // of the candidates, into the list of all
};

class Chooser {
 public:
  Chooser(const ModelFile& file, std::span<const Scheme> schemes, const MixOptions& options,
          Container container)
      : file_(file), schemes_(schemes), options_(options), container_(container) {}

  Status open(std::span<const GroupSensitivity> sensitivities) {
    for (const GroupSensitivity& sensitivity : sensitivities) {
      OpenGroup group{.sensitivity = &sensitivity, .tensors = {}, .candidates = {}, .schemes = {}};
      for (const ModelTensor* tensor : sensitivity.group.tensors) {
        n_weights_ += tensor->rows() * tensor->cols();
        if (const Rule* rule = rule_for(options_.rules, *tensor)) {
          if (Status fixed = fix(*tensor, *rule); !fixed) return fixed;
        } else {
          group.tensors.push_back(tensor);
        }
      }
      if (group.tensors.empty()) continue;
      if (Status listed = list_candidates(group); !listed) return listed;
      items_.push_back(group.candidates);
      groups_.push_back(std::move(group));
    }
    if (items_.empty()) return Error("rules decide about every matrix; there is nothing to choose");
    return ok();
  }

  Result<Mix> choose() {
    if (options_.target.loss) {
      auto allocation = allocate_under_loss(items_, *options_.target.loss);
      if (!allocation) return std::move(allocation).error();
      return finish(*allocation);
    }
    if (options_.target.bits_per_weight) {
      const double wanted = *options_.target.bits_per_weight;
      const auto budget = static_cast<std::int64_t>(
          std::floor(wanted * static_cast<double>(n_weights_) / bits_per_byte));
      const std::int64_t least = least_bytes(items_) + n_fixed_bytes_;
      if (budget < least) {
        return Error(fmt::format(
            "{} bits per weight cannot be reached: the smallest candidates take {:.4f} ({} bytes); "
            "name smaller ones with --candidates",
            wanted, bits_per_weight(least), least));
      }
      auto allocation = allocate(items_, budget - n_fixed_bytes_);
      if (!allocation) return std::move(allocation).error();
      return finish(*allocation);
    }
    return choose_for_file(options_.target.n_bytes.value_or(0));
  }

 private:
  Status fix(const ModelTensor& tensor, const Rule& rule) {
    const Scheme& scheme = rule.recipe ? rule.recipe->scheme : tensor.scheme;
    if (Status status = fits(container_, scheme, tensor); !status)
      return std::move(status).error().in(tensor.name);
    const std::int64_t n_bytes = stored_bytes(container_, scheme, tensor);
    n_fixed_bytes_ += n_bytes;
    fixed_rows_.push_back(row_of(tensor.name, tensor.rows() * tensor.cols(), n_bytes, scheme,
                                 /*loss=*/0, /*is_chosen=*/false));
    return ok();
  }

  Status list_candidates(OpenGroup& group) {
    Status why = ok();
    for (std::size_t s = 0; s < schemes_.size(); ++s) {
      Candidate candidate{0, group.sensitivity->losses[s]};
      Status status = ok();
      for (const ModelTensor* tensor : group.tensors) {
        status = fits(container_, schemes_[s], *tensor);
        if (!status) break;
        candidate.n_bytes += stored_bytes(container_, schemes_[s], *tensor);
      }
      if (!status) {
        why = std::move(status);
        continue;
      }
      if (!std::isfinite(candidate.loss)) continue;
      group.candidates.push_back(candidate);
      group.schemes.push_back(s);
    }
    if (!group.candidates.empty()) return ok();
    return Error(fmt::format("no candidate fits {}{}; name others with --candidates",
                             group.sensitivity->group.name,
                             why ? std::string() : ": " + why.error().message()));
  }

  /// What stands around the matrices is known once schemes are chosen; names of schemes are part
  /// of it, so the budget is corrected until the file fits.
  Result<Mix> choose_for_file(std::int64_t target) {
    auto smallest = allocate(items_, least_bytes(items_));
    if (!smallest) return std::move(smallest).error();
    auto least = finish(*smallest);
    if (!least) return least;
    if (least->n_bytes > target) {
      return Error(fmt::format(
          "{} cannot be reached: the smallest candidates make a model of {} ({} bytes, {:.4f} bits "
          "per weight); name smaller ones with --candidates",
          megabytes(target), megabytes(least->n_bytes), least->n_bytes, least->bits_per_weight));
    }
    std::int64_t budget = target - (least->n_bytes - smallest->n_bytes);
    constexpr int most_tries = 8;
    for (int i = 0; i < most_tries && budget > smallest->n_bytes; ++i) {
      auto allocation = allocate(items_, budget);
      if (!allocation) return std::move(allocation).error();
      auto mix = finish(*allocation);
      if (!mix || mix->n_bytes <= target) return mix;
      budget -= mix->n_bytes - target;
    }
    return least;
  }

  Result<Mix> finish(const Allocation& allocation) {
    Mix mix;
    mix.rules = options_.rules;
    mix.rows = fixed_rows_;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const OpenGroup& group = groups_[i];
      const Scheme& scheme = schemes_[group.schemes[allocation.chosen[i]]];
      std::int64_t n_weights = 0;
      for (const ModelTensor* tensor : group.tensors) {
        n_weights += tensor->rows() * tensor->cols();
        mix.rules.push_back(
            {.pattern = tensor->name,
             .recipe = TensorRecipe{.rounder = options_.rounder, .scheme = scheme}});
      }
      const Candidate& candidate = group.candidates[allocation.chosen[i]];
      mix.rows.push_back(row_of(group.sensitivity->group.name, n_weights, candidate.n_bytes, scheme,
                                candidate.loss, /*is_chosen=*/true));
    }
    mix.bits_per_weight = bits_per_weight(allocation.n_bytes + n_fixed_bytes_);
    mix.loss = allocation.loss;
    auto n_bytes = file_bytes(mix.rules);
    if (!n_bytes) return std::move(n_bytes).error();
    mix.n_bytes = *n_bytes;
    return mix;
  }

  /// Everything that would be written; nothing stays on the disk.
  Result<std::int64_t> file_bytes(const std::vector<Rule>& rules) const {
    auto plan = plan_tensors(file_, std::nullopt, rules, FallbackChoice(),
                             [&](const Scheme& scheme, const ModelTensor& tensor) {
                               return fits(container_, scheme, tensor);
                             });
    if (!plan) return std::move(plan).error();
    auto writer =
        ModelWriter::create(file_, options_.output, outputs_of(*plan, options_.transformed));
    if (!writer) return std::move(writer).error();
    return writer->file_bytes();
  }

  double bits_per_weight(std::int64_t n_bytes) const {
    return bits_per_byte * static_cast<double>(n_bytes) / static_cast<double>(n_weights_);
  }

  static MixRow row_of(std::string name, std::int64_t n_weights, std::int64_t n_bytes,
                       const Scheme& scheme, double loss, bool is_chosen) {
    return {std::move(name),
            n_weights,
            n_bytes,
            scheme,
            bits_per_byte * static_cast<double>(n_bytes) / static_cast<double>(n_weights),
            loss,
            is_chosen};
  }

  const ModelFile& file_;
  std::span<const Scheme> schemes_;
  const MixOptions& options_;
  Container container_;
  std::vector<OpenGroup> groups_;
  std::vector<std::vector<Candidate>> items_;  // of the groups
  std::vector<MixRow> fixed_rows_;
  std::int64_t n_weights_ = 0, n_fixed_bytes_ = 0;
};

}  // namespace

Result<double> parse_bits_per_weight(std::string_view text) {
  std::string_view rest;
  const auto number = leading_number(text, rest);
  if (!number || !rest.empty())
    return Error(fmt::format("\"{}\" is not a number of bits per weight, such as 4.25", text));
  return *number;
}

Result<std::int64_t> parse_size(std::string_view text) {
  struct Unit {
    std::string_view name;
    double n_bytes;
  };
  constexpr std::array units{Unit{"", 1},
                             Unit{"B", 1},
                             Unit{"kB", 1e3},
                             Unit{"KB", 1e3},
                             Unit{"MB", 1e6},
                             Unit{"GB", 1e9},
                             Unit{"KiB", 1024.0},
                             Unit{"MiB", 1024.0 * 1024},
                             Unit{"GiB", 1024.0 * 1024 * 1024}};
  std::string_view rest;
  const auto number = leading_number(text, rest);
  if (number) {
    while (rest.starts_with(' ')) rest.remove_prefix(1);
    for (const Unit& unit : units) {
      constexpr double most = 0x1p62;
      if (unit.name == rest && *number * unit.n_bytes < most)
        return static_cast<std::int64_t>(*number * unit.n_bytes);
    }
  }
  return Error(fmt::format("\"{}\" is not a size, such as 90MB, 90MiB or 1.5GB", text));
}

std::vector<Scheme> default_candidates(Container container) {
  // By rising size; where rows are no multiple of 256, only those of 32 fit.
  constexpr std::array gguf{"iq2_xxs", "iq2_xs", "iq2_s",  "iq3_xxs", "iq3_s",
                            "q3_k",    "iq4_xs", "iq4_nl", "q4_0",    "q4_k",
                            "q4_1",    "q5_0",   "q5_k",   "q6_k",    "q8_0"};
  constexpr std::array folder{"int2.g64",   "int2.g32",  "int3.g128",   "int3.g64",
                              "int3.g32",   "int4.g128", "iq4_nl.g128", "nf4.g64",
                              "iq4_nl.g64", "iq4_nl",    "int5.g128",   "int5.g64",
                              "int5.g32",   "int6.g128", "int6.g64",    "int8.g128"};
  std::vector<Scheme> schemes;
  const auto add = [&](const auto& names) {
    for (const char* name : names) schemes.push_back(*parse_scheme(name));
  };
  if (container == Container::gguf) {
    add(gguf);
  } else {
    add(folder);
  }
  return schemes;
}

Result<std::vector<Scheme>> parse_candidates(std::string_view text) {
  std::vector<Scheme> schemes;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    auto scheme = parse_scheme(text.substr(at, end - at));
    if (!scheme) return std::move(scheme).error().in("--candidates");
    schemes.push_back(*scheme);
    at = end + 1;
  }
  return schemes;
}

Result<Mix> choose_mix(const ModelFile& file, std::span<const Scheme> candidates,
                       std::span<const GroupSensitivity> sensitivities, const MixOptions& options) {
  const auto container = container_of(options.output);
  if (!container) return Error(container.error());
  Chooser chooser(file, candidates, options, *container);
  if (Status opened = chooser.open(sensitivities); !opened) return std::move(opened).error();
  return chooser.choose();
}

}  // namespace lowbit

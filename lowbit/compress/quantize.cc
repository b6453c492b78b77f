// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/quantize.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <xxhash.h>

#include <chrono>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <string>

#include "lowbit/backend/pack_cache.h"
#include "lowbit/compress/transforms.h"
#include "lowbit/compress/work_folder.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/measure/evaluate.h"
#include "lowbit/model/model_writer.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {
namespace {

/// What of the request only text can do; "" when there is no such thing. An importance matrix is
/// enough for rounders that ask for activations.
std::string what_needs_text(const QuantizeOptions& options, const ModelPlan& plan) {
  if (options.recipe) {
    for (const Transform* transform : options.recipe->transforms) {
      if (transform->needs != Needs::weights) return std::string(transform->name);
    }
  }
  for (const TensorPlan& entry : plan.tensors) {
    const Needs needs = entry.recipe ? entry.recipe->rounder->needs : Needs::weights;
    const bool is_known = needs == Needs::activations && !options.statistics.empty();
    if (needs != Needs::weights && !is_known) {
      return std::string(entry.recipe->rounder->name);
    }
  }
  return {};
}

std::string work_folder_of(std::string output) {
  while (output.size() > 1 && output.ends_with('/')) output.pop_back();
  return output + ".work";
}

/// Everything the bits of a calibrated run depend on.
std::string resume_key(const ModelFile& source, const QuantizeOptions& options,
                       const ModelPlan& plan, const CalibrationWindows& windows, ThreadPool& pool) {
  const ContentHash model = content_hash(source.checkpoint().files(), pool);
  std::string text = fmt::format("{:016x}{:016x}", model.high, model.low);
  if (options.recipe) {
    for (const Transform* transform : options.recipe->transforms) {
      text += fmt::format(" {}", transform->name);
    }
  }
  for (const TensorPlan& entry : plan.tensors) {
    text += fmt::format("\n{}={}", entry.tensor->name,
                        entry.recipe ? to_string(*entry.recipe) : std::string("keep"));
  }
  for (const auto& window : windows) {
    text += "\n";
    for (const std::int32_t id : window) text += fmt::format("{} ", id);
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("lowbit {}, request {:016x}{:016x}", LOWBIT_VERSION, hash.high64, hash.low64);
}

/// What programs may still take, page cache that can be given up included; 0 when it cannot be
/// told.
std::int64_t free_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  std::int64_t kibibytes = 0;
  while (file >> name >> kibibytes) {
    std::getline(file, unit);
    if (name == "MemAvailable:") return kibibytes << 10;
  }
  return 0;
}

/// Rounds what the plan says into the work folder. tensors: of the source, as they are to be
/// rounded.
Result<WorkFolder> calibrate(const ModelFile& source, const TensorSource& tensors,
                             const QuantizeOptions& options, const ModelPlan& plan,
                             QuantizeReport& report, ThreadPool& pool) {
  auto data = source.tokenizer();
  if (!data) return std::move(data).error().in("calibration needs the model's tokenizer");
  const auto tokenizer = Tokenizer::create(*std::move(data));
  if (!tokenizer) return Error(tokenizer.error()).in("tokenizer");
  auto windows = read_calibration(*options.calibration, *tokenizer, source.config());
  if (!windows) return std::move(windows).error();
  report.n_calibration_windows = std::ssize(*windows);
  auto work = WorkFolder::open(work_folder_of(options.output),
                               resume_key(source, options, plan, *windows, pool), pool);
  if (!work) return work;
  std::map<std::string_view, const TensorPlan*> entries;
  for (const TensorPlan& entry : plan.tensors) entries[entry.tensor->name] = &entry;
  PipelineOptions pipeline;
  pipeline.recipe_of = [&](std::string_view name) -> std::optional<TensorRecipe> {
    const auto at = entries.find(name);
    return at == entries.end() ? std::nullopt : at->second->recipe;
  };
  pipeline.windows = *std::move(windows);
  pipeline.memory_bytes = options.memory_bytes;
  pipeline.work = &*work;
  pipeline.progress = options.progress;
  if (options.recipe) {
    auto transforms = block_transforms(tensors, *options.recipe, pipeline.recipe_of);
    if (!transforms) return std::move(transforms).error();
    pipeline.transforms = *std::move(transforms);
  }
  auto done = quantize_blocks(tensors, pipeline, {}, pool);
  if (!done) return std::move(done).error();
  report.notes = done->notes;
  report.calibration = *std::move(done);
  return work;
}

/// A tensor that a transform changed and nothing rounds comes as f32 and goes as it was stored.
Status keep_scheme(const Scheme& scheme, QuantizedTensor& tensor) {
  if (tensor.scheme == scheme || !is_plain_float(tensor.scheme)) return ok();
  if (!is_plain_float(scheme)) {
    return Error(fmt::format(
        "cannot be kept in {}, because a transform changes its numbers; give it a recipe (--rule)",
        to_string(scheme)));
  }
  const Basis input = tensor.input;
  tensor = encode_plain(decode(tensor), scheme, tensor.rows, tensor.cols);
  tensor.input = input;
  return ok();
}

}  // namespace

std::int64_t peak_resident_bytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  constexpr std::int64_t bytes_per_unit = 1024;  // Linux counts ru_maxrss in kibibytes
  return static_cast<std::int64_t>(usage.ru_maxrss) * bytes_per_unit;
}

Result<QuantizeReport> quantize_model(const ModelFile& source, const QuantizeOptions& options,
                                      ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  const bool is_transformed = options.recipe && !options.recipe->transforms.empty();
  if (is_transformed && !options.statistics.empty()) {
    return Error(
        fmt::format("an importance matrix is about inputs that {} changes; give "
                    "--calibration FILE instead",
                    options.recipe->transforms.front()->name));
  }
  const auto container = container_of(options.output, options.convention);
  if (!container) return Error(container.error());
  auto plan = plan_tensors(
      source, options.recipe, options.rules, options.fallback,
      [&](const Scheme& scheme, const ModelTensor& tensor) {
        return fits(*container, scheme, tensor);
      },
      /*calibrated=*/options.calibration.has_value() || !options.statistics.empty());
  if (!plan) return std::move(plan).error();
  if (const std::string what = what_needs_text(options, *plan);
      !what.empty() && !options.calibration) {
    return Error(
        fmt::format("{} needs calibration text: give --calibration FILE (scripts/fetch "
                    "--calibration makes one)",
                    what));
  }

  const auto stored = tensors_of(source, pool);
  std::unique_ptr<FoldedModel> folded;
  if (is_transformed) {
    auto model = fold_model(*stored, *options.recipe, pool);
    if (!model) return std::move(model).error();
    folded = *std::move(model);
  }
  const TensorSource& tensors = folded ? static_cast<const TensorSource&>(*folded) : *stored;

  const auto outputs = outputs_of(*plan, is_transformed ? &tensors : nullptr);
  auto writer = ModelWriter::create(source, options.output, outputs, options.convention);
  if (!writer) return std::move(writer).error();

  QuantizeReport report;
  std::unique_ptr<WorkFolder> work;
  if (options.calibration) {
    auto calibrated = calibrate(source, tensors, options, *plan, report, pool);
    if (!calibrated) return std::move(calibrated).error();
    work = std::make_unique<WorkFolder>(*std::move(calibrated));
  }
  const auto n_total = static_cast<std::int64_t>(plan->tensors.size());
  for (std::int64_t i = 0; i < n_total; ++i) {
    const TensorPlan& entry = plan->tensors[static_cast<std::size_t>(i)];
    const std::string& name = entry.tensor->name;
    if (options.progress && !options.progress(name, i, n_total)) return Error("interrupted");
    auto tensor = [&]() -> Result<QuantizedTensor> {
      if (work != nullptr && work->has(name)) return work->load(name, pool);
      if (!entry.recipe) return tensors.load(name);
      const auto known = options.statistics.find(name);
      const InputStats stats =
          known == options.statistics.end() ? InputStats{} : known->second.view();
      auto result =
          round_tensor(tensors, name, stats, *entry.recipe, options.memory_bytes / 4, pool);
      if (!result) return std::move(result).error();
      if (!result->note.empty()) report.notes.push_back({name, result->note});
      return std::move(result->tensor);
    }();
    if (!tensor) return std::move(tensor).error();
    if (Status status = keep_scheme(outputs[static_cast<std::size_t>(i)].scheme, *tensor);
        !status) {
      return std::move(status).error().in(name);
    }
    if (Status status = writer->add(std::move(*tensor)); !status) return std::move(status).error();
    source.drop_pages(*entry.tensor);
  }
  if (Status status = writer->commit(); !status) return std::move(status).error();
  if (options.progress) options.progress("", n_total, n_total);
  if (work != nullptr) {
    if (Status removed = work->remove(); !removed) return std::move(removed).error();
  }
  report.output = options.output;
  report.n_bytes = writer->file_bytes();
  report.fallbacks = std::move(plan->fallbacks);
  for (std::string& note : plan->notes) report.notes.push_back({"imatrix", std::move(note)});
  const auto written = ModelFile::open(options.output);
  if (!written) return Error(written.error()).in("the written model cannot be opened again");
  report.bits_per_weight = written->bits_per_weight();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.peak_bytes = peak_resident_bytes();
  return report;
}

Result<TensorTransform> requantizing(std::string_view weight_recipe, ThreadPool& pool) {
  const auto recipe = parse_tensor_recipe(weight_recipe);
  if (!recipe) return Error(recipe.error());
  if (Status status = check_no_transforms(*recipe, "w="); !status) return std::move(status).error();
  constexpr std::int64_t all_memory = std::numeric_limits<std::int64_t>::max();
  return TensorTransform([recipe = *recipe, &pool](
                             std::string_view, QuantizedTensor tensor) -> Result<QuantizedTensor> {
    if (same_but_for_tables(tensor.scheme, recipe.scheme)) return tensor;
    auto result = round_tensor(tensor, InputStats{}, recipe, all_memory, pool);
    if (!result) return std::move(result).error();
    return std::move(result->tensor);
  });
}

Result<std::optional<SelfTest>> self_test(const ModelFile& source, const std::string& output,
                                          ThreadPool& pool, std::string& skipped,
                                          const EvalProgress& progress) {
  auto written = ModelFile::open(output);
  if (!written) return std::move(written).error();
  // Packed panels take at most a little more than the container; logits and pages come on top.
  constexpr std::int64_t working_bytes = std::int64_t{512} << 20;
  const std::int64_t needed =
      (source.checkpoint().file_bytes() + written->checkpoint().file_bytes()) * 5 / 4 +
      working_bytes;
  if (needed > free_memory_bytes()) {
    skipped = fmt::format("self-test skipped: both models need {} MB side by side, {} MB are free",
                          needed >> 20, free_memory_bytes() >> 20);
    return std::optional<SelfTest>();
  }
  const auto load = [&](const ModelFile& file) {
    return LoadedModel::load(file, exact_recipe(), pool,
                             LoadOptions{.activations = Activations::f32});
  };
  if (!source.tokenizer()) {
    skipped = "self-test skipped: the source has no tokenizer";
    return std::optional<SelfTest>();
  }
  auto student = load(*written);
  if (!student) return std::move(student).error().in("self-test");
  auto teacher = load(source);
  if (!teacher) return std::move(teacher).error().in("self-test");
  EvalOptions options;
  options.progress = progress;
  options.n_ctx = std::min(options.n_ctx, source.config().n_ctx_train);
  auto report = evaluate(**student, teacher->get(), self_test_text(), pool, options);
  if (!report) return std::move(report).error().in("self-test");
  return std::optional(
      SelfTest{report->divergence->kld_mean, report->divergence->top1_agreement, report->n_scored});
}

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/quantize.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <fstream>
#include <string>

#include "lowbit/measure/evaluate.h"
#include "lowbit/model/model_writer.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {
namespace {

Result<QuantizedTensor> rounded(const QuantizedTensor& tensor, const TensorRecipe& recipe,
                                ThreadPool& pool) {
  std::vector<float> w(static_cast<std::size_t>(tensor.rows * tensor.cols));
  constexpr std::int64_t rows_per_chunk = 16;
  pool.parallel_for(tensor.rows, rows_per_chunk, [&](std::int64_t first, std::int64_t last, int) {
    decode_rows(tensor, first, last - first,
                std::span(w).subspan(static_cast<std::size_t>(first * tensor.cols),
                                     static_cast<std::size_t>((last - first) * tensor.cols)));
  });
  auto result = recipe.rounder->round(MatrixView(w.data(), tensor.rows, tensor.cols), InputStats{},
                                      recipe.scheme, pool);
  if (!result) return std::move(result).error();
  return std::move(result->tensor);
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
  if (options.recipe && !options.recipe->transforms.empty()) {
    return Error(fmt::format("this lowbit cannot apply the transform {} yet",
                             options.recipe->transforms.front()->name));
  }
  const auto container = container_of(options.output);
  if (!container) return Error(container.error());
  auto plan = plan_tensors(source, options.recipe, options.rules, options.fallback,
                           [&](const Scheme& scheme, const ModelTensor& tensor) {
                             return fits(*container, scheme, tensor);
                           });
  if (!plan) return std::move(plan).error();

  std::vector<OutputTensor> outputs;
  for (const TensorPlan& entry : plan->tensors) outputs.push_back({entry.tensor, entry.scheme});
  auto writer = ModelWriter::create(source, options.output, outputs);
  if (!writer) return std::move(writer).error();

  const auto n_total = static_cast<std::int64_t>(plan->tensors.size());
  for (std::int64_t i = 0; i < n_total; ++i) {
    const TensorPlan& entry = plan->tensors[static_cast<std::size_t>(i)];
    if (options.progress && !options.progress(entry.tensor->name, i, n_total))
      return Error("interrupted");
    auto tensor = source.load(*entry.tensor, &pool);
    if (!tensor) return std::move(tensor).error().in(entry.tensor->name);
    if (entry.recipe) {
      tensor = rounded(*tensor, *entry.recipe, pool);
      if (!tensor) return std::move(tensor).error().in(entry.tensor->name);
    }
    if (Status status = writer->add(std::move(*tensor)); !status) return std::move(status).error();
    source.drop_pages(*entry.tensor);
  }
  if (Status status = writer->commit(); !status) return std::move(status).error();
  if (options.progress) options.progress("", n_total, n_total);

  QuantizeReport report;
  report.output = options.output;
  report.n_bytes = writer->file_bytes();
  report.fallbacks = std::move(plan->fallbacks);
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
  return TensorTransform([recipe = *recipe, &pool](
                             std::string_view, QuantizedTensor tensor) -> Result<QuantizedTensor> {
    if (tensor.scheme == recipe.scheme) return tensor;
    return rounded(tensor, recipe, pool);
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

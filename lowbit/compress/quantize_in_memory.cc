// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/quantize_in_memory.h"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "lowbit/compress/transforms.h"
#include "lowbit/io/layout.h"
#include "lowbit/model/model_writer.h"

namespace lowbit {
namespace {

bool fits_gguf(const Scheme& scheme, const ModelTensor& tensor) {
  return gguf_bits_per_weight(scheme) && fits(Container::gguf, scheme, tensor);
}

/// GGUF or, where that has no type or its blocks do not fill the rows, a folder.
Status fits_somewhere(const Scheme& scheme, const ModelTensor& tensor) {
  if (fits_gguf(scheme, tensor)) return ok();
  return fits(Container::folder, scheme, tensor);
}

double stored_bits(const Scheme& scheme, const ModelTensor& tensor) {
  if (fits_gguf(scheme, tensor)) return *gguf_bits_per_weight(scheme);
  return planar_bits_per_weight(scheme, tensor.rows(), tensor.cols());
}

/// Each matrix with a recipe on its own, as without calibration text.
Status quantize_each(const TensorSource& source, const ModelPlan& plan,
                     const QuantizeOptions& request, ModelInMemory& model, ThreadPool& pool) {
  const auto n_total = static_cast<std::int64_t>(plan.tensors.size());
  for (std::int64_t i = 0; i < n_total; ++i) {
    const TensorPlan& entry = plan.tensors[static_cast<std::size_t>(i)];
    const std::string& name = entry.tensor->name;
    if (request.progress && !request.progress(name, i, n_total)) return Error("interrupted");
    if (!entry.recipe) continue;
    auto tensor = source.load(name);
    if (!tensor) return std::move(tensor).error().in(name);
    auto numbers = finite_numbers(*tensor, pool);
    if (!numbers) return std::move(numbers).error().in(name);
    auto rounded =
        entry.recipe->rounder->round(MatrixView(numbers->data(), tensor->rows, tensor->cols),
                                     InputStats{}, entry.recipe->scheme, pool);
    if (!rounded) return std::move(rounded).error().in(name);
    rounded->tensor.input = tensor->input;
    if (!rounded->note.empty()) model.notes.push_back(fmt::format("{}: {}", name, rounded->note));
    model.tensors->replace(name, std::move(rounded->tensor));
    source.drop(name);
  }
  return ok();
}

Status quantize_calibrated(const TensorSource& source, const ModelPlan& plan,
                           const QuantizeOptions& request, const CalibrationWindows& windows,
                           ModelInMemory& model, ThreadPool& pool) {
  std::map<std::string_view, const TensorPlan*> entries;
  for (const TensorPlan& entry : plan.tensors) entries[entry.tensor->name] = &entry;
  PipelineOptions options;
  options.recipe_of = [&](std::string_view name) -> std::optional<TensorRecipe> {
    const auto at = entries.find(name);
    return at == entries.end() ? std::nullopt : at->second->recipe;
  };
  options.windows = windows;
  options.memory_bytes = request.memory_bytes;
  options.progress = request.progress;
  if (request.recipe) {
    auto transforms = block_transforms(source, *request.recipe, options.recipe_of);
    if (!transforms) return Error(transforms.error());
    options.transforms = *std::move(transforms);
  }
  const auto report = quantize_blocks(
      source, options,
      [&](const std::string& name, QuantizedTensor tensor) {
        model.tensors->replace(name, std::move(tensor));
        return ok();
      },
      pool);
  if (!report) return Error(report.error());
  for (const auto& note : report->notes)
    model.notes.push_back(fmt::format("{}: {}", note.tensor, note.text));
  return ok();
}

Status check_has_text(const QuantizeOptions& request, const ModelPlan& plan) {
  const auto missing = [](std::string_view what) {
    return Error(fmt::format(
        "{} needs calibration text: give --calibration FILE (scripts/fetch --calibration)", what));
  };
  if (request.recipe) {
    for (const Transform* transform : request.recipe->transforms) {
      if (transform->needs != Needs::weights) return missing(transform->name);
    }
  }
  for (const TensorPlan& entry : plan.tensors) {
    if (entry.recipe && entry.recipe->rounder->needs != Needs::weights)
      return missing(entry.recipe->rounder->name);
  }
  return ok();
}

}  // namespace

Result<ModelInMemory> quantize_in_memory(const ModelFile& source, const QuantizeOptions& request,
                                         const CalibrationWindows* windows, ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  auto plan = plan_tensors(source, request.recipe, request.rules, request.fallback, fits_somewhere,
                           /*calibrated=*/windows != nullptr);
  if (!plan) return std::move(plan).error();
  ModelInMemory model;
  model.source = tensors_of(source, pool);
  if (request.recipe) {
    auto folded = fold_model(*model.source, *request.recipe, pool);
    if (!folded) return std::move(folded).error();
    model.folded = *std::move(folded);
  }
  const TensorSource& tensors =
      model.folded ? static_cast<const TensorSource&>(*model.folded) : *model.source;
  model.tensors = std::make_unique<QuantizedModel>(tensors);
  model.notes = plan->notes;
  if (!plan->fallbacks.empty())
    model.notes.push_back(fmt::format("{} tensors fell back", plan->fallbacks.size()));
  if (windows == nullptr) {
    if (Status status = check_has_text(request, *plan); !status) return std::move(status).error();
  }
  Status done = windows == nullptr
                    ? quantize_each(tensors, *plan, request, model, pool)
                    : quantize_calibrated(tensors, *plan, request, *windows, model, pool);
  if (!done) return std::move(done).error();
  double n_bits = 0, n_numbers = 0;
  for (const TensorPlan& entry : plan->tensors) {
    if (!entry.tensor->is_matrix()) continue;
    const auto n = static_cast<double>(entry.tensor->rows() * entry.tensor->cols());
    n_bits += n * stored_bits(entry.scheme, *entry.tensor);
    n_numbers += n;
  }
  model.bits_per_weight = n_bits / n_numbers;
  model.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return model;
}

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
// lowbit calibrate: what a text says about the inputs of every matrix, as an importance matrix that
// lowbit and llama.cpp read. Chunks follow each other as llama-imatrix takes them, so the same text
// gives the same file.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/terminal.h"
#include "lowbit/compress/calibration_text.h"
#include "lowbit/compress/imatrix_statistics.h"

namespace lowbit::app {
namespace {

struct Options {
  ModelOptions model;
  std::string text, output;
  std::int64_t n_chunks = 0, chunk_size = default_imatrix_chunk;
  bool json = false;
};

Result<CalibrationWindows> read_chunks(const Options& options, const ModelFile& model) {
  auto text = read_calibration_text(options.text);
  if (!text) return std::move(text).error();
  auto data = model.tokenizer();
  if (!data) return std::move(data).error().in("calibration needs the model's tokenizer");
  const auto tokenizer = Tokenizer::create(*std::move(data));
  if (!tokenizer) return Error(tokenizer.error()).in("tokenizer");
  if (options.chunk_size > model.config().n_ctx_train) {
    return Error(fmt::format("--chunk-size {} is beyond the model's context of {}",
                             options.chunk_size, model.config().n_ctx_train));
  }
  auto chunks = imatrix_chunks(*text, *tokenizer, options.chunk_size, options.n_chunks);
  if (!chunks) return std::move(chunks).error().in(options.text);
  return chunks;
}

Exit calibrate(const Options& options) {
  if (Status status = check_imatrix_path(options.output); !status) return refuse(status.error());
  auto model = ModelFile::open(options.model.model);
  if (!model) return fail(model.error());
  const auto chunks = read_chunks(options, *model);
  if (!chunks) return fail(chunks.error());
  const auto pool = make_pool(options.model);
  watch_interrupts();
  Result<ModelStats> statistics = [&] {
    Progress progress("calibrating");
    StatisticsOptions settings;  // hidden states in memory: a text of this kind is short
    settings.progress = [&](std::int64_t n_done, std::int64_t n_total) {
      return progress(n_done, n_total);
    };
    return collect_statistics(*tensors_of(*model, *pool), *chunks, Needs::activations, *pool,
                              settings);
  }();
  if (!statistics) return fail(statistics.error());
  const Imatrix imatrix = imatrix_of(*statistics, options.chunk_size, {options.text});
  if (Status status = write_imatrix(options.output, imatrix); !status) return fail(status.error());
  const std::int64_t n_tokens = std::ssize(*chunks) * options.chunk_size;
  if (options.json) {
    const nlohmann::ordered_json object{{"output", options.output},
                                        {"entries", imatrix.entries.size()},
                                        {"chunks", chunks->size()},
                                        {"tokens", n_tokens}};
    return print_result(object.dump() + "\n");
  }
  return print_result(fmt::format("{}: {} matrices over {} tokens in {} chunks\n", options.output,
                                  imatrix.entries.size(), n_tokens, chunks->size()));
}

}  // namespace

void add_calibrate(CLI::App& parser, Context& context) {
  CLI::App* command = parser.add_subcommand(
      "calibrate", "What a text says about the inputs of every matrix, as an importance matrix");
  auto options = std::make_shared<Options>();
  command->add_option("-m,--model", options->model.model, "a .gguf file or a model folder")
      ->required();
  command->add_option("--calibration", options->text, "the text")->required();
  command->add_option("-o,--output", options->output, "X.gguf, or X.dat for tools before 2025")
      ->required();
  command->add_option("--chunks", options->n_chunks, "how many at most; 0: the whole text")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--chunk-size", options->chunk_size, "tokens of a chunk")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object on stdout");
  add_thread_option(*command, options->model);
  command->callback([options, &context] { context.exit = calibrate(*options); });
  command->footer(
      "Examples:\n"
      "  lowbit calibrate -m model.gguf --calibration text.txt -o model.imatrix.gguf\n"
      "  lowbit quantize -m model.gguf IQ3_S --imatrix model.imatrix.gguf -o model-iq3_s.gguf");
}

}  // namespace lowbit::app

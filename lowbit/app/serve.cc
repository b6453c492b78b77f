// SPDX-License-Identifier: Apache-2.0
// lowbit serve: the server's command line.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lowbit/app/command.h"
#include "lowbit/app/descriptor_limit.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/serve_model.h"
#include "lowbit/compress/mixed_precision.h"
#include "lowbit/server/server.h"

namespace lowbit::app {
namespace {

struct Options {
  ModelOptions model;
  ServerOptions server;
  EngineOptions engine{.n_ctx = 0, .n_kv_positions = 0, .max_sequences = 32, .step_tokens = 512};
  std::vector<std::string> models;
  std::string alias, request_log, memory, kv_memory;
};

/// Where scripts/fetch, and so scripts/demo, puts the default model: under the folder we are in, or
/// the repository that this program was built in. "" if it is not there.
std::string default_model() {
  constexpr const char* place = "cache/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::error_code error;
  if (std::filesystem::exists(place, error)) return place;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (auto folder = program.parent_path(); folder.has_relative_path();
       folder = folder.parent_path()) {
    if (std::filesystem::exists(folder / place, error)) return folder / place;
  }
  return "";
}

Result<std::vector<ModelWish>> wishes_of(const Options& options) {
  ModelWish defaults;
  auto recipe = parse_recipe(options.model.recipe);
  if (!recipe) return std::move(recipe).error();
  defaults.recipe = *recipe;
  defaults.n_ctx = options.engine.n_ctx;
  if (!options.kv_memory.empty()) {
    auto n_bytes = parse_size(options.kv_memory);
    if (!n_bytes) return std::move(n_bytes).error().in("--kv-memory");
    defaults.kv_bytes = *n_bytes;
  }
  std::vector<std::string> models = options.models;
  if (models.empty()) {
    models = {default_model()};
    if (models.front().empty()) {
      return Error(
          "no model was given and the default one is not there; scripts/demo gets it, or "
          "name one: lowbit serve model.gguf");
    }
  }
  std::vector<ModelWish> wishes;
  for (const std::string& model : models) {
    auto wish = parse_model_wish(model, defaults);
    if (!wish) return std::move(wish).error();
    wishes.push_back(*std::move(wish));
  }
  if (!options.alias.empty()) {
    if (wishes.size() > 1)
      return Error("--alias names one model; with several use --model NAME=PATH");
    wishes.front().name = options.alias;
  }
  return wishes;
}

Result<std::int64_t> memory_of(const Options& options) {
  if (options.memory.empty()) return default_memory();
  auto n_bytes = parse_size(options.memory);
  if (!n_bytes) return std::move(n_bytes).error().in("--memory");
  return n_bytes;
}

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdout) std::fclose(file);
  }
};

Exit serve(const Options& options) {
  const auto wishes = wishes_of(options);
  if (!wishes) return refuse(wishes.error());
  const auto memory = memory_of(options);
  if (!memory) return refuse(memory.error());
  auto sources = make_sources(*wishes,
                              {.engine = options.engine,
                               .n_kv_positions = options.engine.n_kv_positions,
                               .memory_bytes = *memory,
                               .verbose = options.model.verbose,
                               .pack_cache = options.model.pack_cache},
                              make_pool(options.model));
  if (!sources) return fail(sources.error());
  std::unique_ptr<std::FILE, CloseFile> request_log;
  Server::Calls calls;
  calls.log = [](const std::string& line) { spdlog::info("{}", line); };
  if (!options.request_log.empty()) {
    request_log.reset(options.request_log == "-" ? stdout
                                                 : std::fopen(options.request_log.c_str(), "ae"));
    if (!request_log) {
      return fail(Error(fmt::format("cannot write the request log {}", options.request_log)));
    }
    calls.request = [&options, file = request_log.get(),
                     is_written = true](const std::string& json) mutable {
      // What was written last may be half a line.
      const std::string line = (is_written ? "" : "\n") + json + "\n";
      const bool was_written =
          std::exchange(is_written, std::fwrite(line.data(), 1, line.size(), file) == line.size() &&
                                        std::fflush(file) == 0);
      if (was_written && !is_written) {
        spdlog::warn("cannot write the request log {}: {}; lines are lost until it can be",
                     options.request_log, std::strerror(errno));
      }
      if (!was_written && is_written) spdlog::info("the request log is written again");
    };
  }
  raise_descriptor_limit();
  ServerOptions server_options = options.server;
  server_options.memory_bytes = *memory;
  auto server = Server::create(server_options, *std::move(sources), std::move(calls));
  if (!server) return fail(server.error());
  spdlog::info("listening on {}://{}:{}", server_options.tls.certificate.empty() ? "http" : "https",
               server_options.host, (*server)->port());
  const Status done = (*server)->run();
  if (!done) return fail(done.error());
  return Exit::ok;
}

void add_memory(CLI::App& command, Options& options) {
  const CLI::Range seconds(0.0, 1e9);
  command.add_option("--memory", options.memory,
                     "weights and KV caches of all loaded models, such as 12GiB (default: 9/10 of "
                     "what is free)");
  command.add_option(
      "--kv-memory", options.kv_memory,
      "KV cache of a model, such as 2GiB; all of it is taken when the model is loaded");
  command
      .add_option("--idle-unload", options.server.idle_unload_seconds,
                  "seconds after which a model that nobody uses is unloaded (0: never)")
      ->check(seconds);
  command
      .add_option("--load-timeout", options.server.load_wait_seconds,
                  "seconds that a request waits for the memory of models in use (60)")
      ->check(seconds);
  command
      .add_option_function<double>(
          "--max-itl",
          [&options](double milliseconds) { options.engine.max_itl = milliseconds * 1e-3; },
          "milliseconds between two tokens of an answer that prompts of others may cause (0: any)")
      ->check(CLI::Range(0.0, 1e6));
  command.add_flag_callback(
      "--no-prefix-cache", [&options] { options.engine.prefix_cache = false; },
      "compute every prompt anew");
}

void add_limits(CLI::App& command, Options& options) {
  ServerOptions& server = options.server;
  constexpr std::int64_t most = std::int64_t{1} << 40;
  const CLI::Range count(std::int64_t{1}, most);
  const CLI::Range seconds(0.01, 1e6);
  command.add_option("--max-body", server.http.body_bytes, "bytes of a request's body (8 MB)")
      ->check(count);
  command
      .add_option("--max-header", server.http.header_bytes, "bytes of a request's header (16 kB)")
      ->check(CLI::Range(256, 1 << 20));
  command.add_option("--max-connections", server.http.n_connections, "open connections (16000)")
      ->check(count);
  command
      .add_option("--header-timeout", server.http.header_seconds,
                  "seconds for a request's header (10)")
      ->check(seconds);
  command
      .add_option("--body-timeout", server.http.body_seconds, "seconds for a request's body (60)")
      ->check(seconds);
  command
      .add_option("--idle-timeout", server.http.idle_seconds,
                  "seconds between requests of a connection (120)")
      ->check(seconds);
  command
      .add_option("--write-timeout", server.http.stall_seconds,
                  "seconds a client may not take its answer (60)")
      ->check(seconds);
  command
      .add_option("--request-timeout", server.request_seconds,
                  "seconds from a request to the end of its answer (600)")
      ->check(seconds);
  command
      .add_option("--keep-alive", server.keep_alive_seconds,
                  "seconds between comments in a stream that is silent (15)")
      ->check(seconds);
  command
      .add_option("--shutdown-timeout", server.drain_seconds,
                  "seconds to finish answers after SIGTERM (15)")
      ->check(seconds);
  command
      .add_option("--max-num-queued-reqs", server.max_queued,
                  "requests that wait beyond those that run (512); more get 503")
      ->check(CLI::Range(std::int64_t{0}, most));
  command
      .add_option("--max-num-queued-tokens", server.max_queued_tokens,
                  "prompt tokens that wait (1048576); more get 503")
      ->check(count);
}

}  // namespace

void add_serve(CLI::App& parser, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      parser.add_subcommand("serve", "An OpenAI-compatible server with continuous batching");
  command
      ->add_option(
          "-m,--model,model", options->models,
          "[NAME=]PATH[,w=..,a=..,kv=..,kv-memory=SIZE,ctx=TOKENS]: a .gguf file or a model "
          "folder; repeated: several models, the first is loaded at once, the others when "
          "they are asked for (default: the one that scripts/demo gets)")
      ->allow_extra_args(false)
      ->take_all();
  constexpr int most_port = 65535;
  constexpr std::int64_t most_tokens = std::int64_t{1} << 31;
  const CLI::Range tokens(std::int64_t{1}, most_tokens);
  ServerOptions& server = options->server;
  command->add_option("--host", server.host, "address to listen on (127.0.0.1)");
  command->add_option("--port", server.port, "port to listen on (8000); 0: any free one")
      ->check(CLI::Range(0, most_port));
  command->add_option("-a,--alias,--served-model-name", options->alias,
                      "the model's name for clients (default: the file's)");
  command
      ->add_option("-c,--ctx-size,--max-model-len", options->engine.n_ctx,
                   "context in tokens (default: the model's)")
      ->check(tokens);
  command
      ->add_option("--max-num-seqs,--parallel", options->engine.max_sequences,
                   "requests that run at once (32)")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--max-num-batched-tokens", options->engine.step_tokens,
                   "tokens of one step (512)")
      ->check(tokens);
  command
      ->add_option(
          "--kv-tokens", options->engine.n_kv_positions,
          "positions of the KV cache, shared by all requests (default: 4 contexts, or what "
          "there is memory for)")
      ->check(tokens);
  add_memory(*command, *options);
  CLI::Option* const key =
      command->add_option("--ssl-keyfile", server.tls.key, "PEM file with the certificate's key");
  CLI::Option* const certificate = command->add_option(
      "--ssl-certfile", server.tls.certificate,
      "PEM file with a certificate chain: HTTPS instead of HTTP; SIGHUP reads it again");
  certificate->needs(key);
  key->needs(certificate);
  command->add_option("--api-key", server.api_keys, "a key that clients must send; may be repeated")
      ->take_all();
  command->add_option("--api-key-file", server.api_key_file,
                      "file with such keys, one a line; SIGHUP reads it again");
  command
      ->add_option("--cors-origin", server.cors_origins,
                   "page that may use the server ('*': any); pages on this machine may anyway")
      ->take_all();
  command->add_option("--request-log", options->request_log,
                      "file for one JSON line per request, without its text; '-' is stdout");
  add_limits(*command, *options);
  add_recipe_option(*command, options->model);
  add_pack_cache_option(*command, options->model);
  add_thread_option(*command, options->model);
  command->footer(
      "Examples:\n"
      "  lowbit serve model.gguf\n"
      "  lowbit serve -m model.gguf --host 0.0.0.0 --port 8000 --api-key-file keys.txt\n"
      "  lowbit serve --model four=model.gguf,w=int4.g32 --model eight=model.gguf,w=int8.channel\n"
      "  curl localhost:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", "
      "\"content\": \"Hi\"}]}'");
  command->callback([options, &context] { context.exit = serve(*options); });
}

}  // namespace lowbit::app

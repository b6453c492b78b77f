// SPDX-License-Identifier: Apache-2.0
// lowbit serve: the server's command line.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "lowbit/app/command.h"
#include "lowbit/app/descriptor_limit.h"
#include "lowbit/app/model_options.h"
#include "lowbit/model/model_file.h"
#include "lowbit/server/server.h"

namespace lowbit::app {
namespace {

struct Options {
  ModelOptions model;
  ServerOptions server;
  EngineOptions engine{.n_ctx = 0, .n_kv_positions = 0, .max_sequences = 32, .step_tokens = 512};
  std::string alias, request_log;
};

/// What generation_config.json says about requests that say nothing; a GGUF file says nothing.
SamplingParams defaults_of(const ModelFile& file) {
  SamplingParams params;
  const nlohmann::json& config = file.folder_json("generation_config.json");
  const auto number = [&](const char* name, float& value) {
    const auto at = config.find(name);
    if (at != config.end() && at->is_number()) value = at->get<float>();
  };
  number("temperature", params.temperature);
  number("top_p", params.top_p);
  number("min_p", params.min_p);
  number("repetition_penalty", params.repetition_penalty);
  const auto top_k = config.find("top_k");
  if (top_k != config.end() && top_k->is_number_integer()) params.top_k = top_k->get<int>();
  return params;
}

Result<std::unique_ptr<ServedModel>> load(const Options& options, const Recipe& recipe) {
  auto served = std::make_unique<ServedModel>();
  auto file = ModelFile::open(options.model.model);
  if (!file) return std::move(file).error();
  const std::filesystem::path path(file->path());
  const std::string name = path.stem().string();
  served->names = {options.alias.empty() ? name : options.alias, name, path.string(),
                   path.filename().string(), options.model.model};
  served->description = path.filename().string();
  served->defaults = defaults_of(*file);
  if (const Status sane = check(served->defaults, file->config().n_vocab); !sane) {
    return Error(sane.error()).in("generation_config.json");
  }
  if (const std::string source = file->chat_template(); source.empty()) {
    served->no_template = fmt::format("{} has no chat template", served->names.front());
  } else {
    auto parsed = ChatTemplate::parse(source);
    if (!parsed) {
      served->no_template = parsed.error().message();
      spdlog::warn("{}; chats are refused", served->no_template);
    } else {
      served->chat_template.emplace(*std::move(parsed));
      served->template_reads_tools = source.find("tools") != std::string::npos;
    }
  }
  served->pool = make_pool(options.model);
  auto model =
      load_model(*file, recipe, *served->pool, options.model.verbose, options.model.pack_cache);
  if (!model) return std::move(model).error();
  served->model = *std::move(model);
  auto vocabulary = TokenVocabulary::create(served->tokenizer(), tool_call_markers);
  if (vocabulary) {
    served->constraints = std::make_unique<ConstraintCache>(*std::move(vocabulary));
  } else {
    served->no_constraints = vocabulary.error().message();
  }
  EngineOptions engine_options = options.engine;
  engine_options.kv = recipe.kv;
  if (engine_options.n_ctx == 0) engine_options.n_ctx = file->config().n_ctx_train;
  if (engine_options.n_kv_positions == 0) {
    constexpr std::int64_t default_contexts = 4;
    engine_options.n_kv_positions = default_contexts * engine_options.n_ctx;
  }
  served->max_sequences = engine_options.max_sequences;
  auto engine = Engine::create(served->model->backend(), served->model->weights(),
                               &served->model->tokenizer(), engine_options);
  if (!engine) return std::move(engine).error();
  served->engine = *std::move(engine);
  return served;
}

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdout) std::fclose(file);
  }
};

Exit serve(const Options& options) {
  auto recipe = parse_recipe(options.model.recipe);
  if (!recipe) return refuse(recipe.error());
  std::unique_ptr<std::FILE, CloseFile> request_log;
  Server::Calls calls;
  calls.log = [](const std::string& line) { spdlog::info("{}", line); };
  if (!options.request_log.empty()) {
    request_log.reset(options.request_log == "-" ? stdout
                                                 : std::fopen(options.request_log.c_str(), "ae"));
    if (!request_log) {
      return fail(Error(fmt::format("cannot write the request log {}", options.request_log)));
    }
    calls.request = [file = request_log.get()](const std::string& json) {
      std::fwrite((json + "\n").data(), 1, json.size() + 1, file);
      std::fflush(file);
    };
  }
  raise_descriptor_limit();
  auto server = Server::create(options.server, std::move(calls));
  if (!server) return fail(server.error());
  spdlog::info("listening on http://{}:{}", options.server.host, (*server)->port());
  const Status done = (*server)->run([&] { return load(options, *recipe); });
  if (!done) return fail(done.error());
  return Exit::ok;
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
  add_model_option(*command, options->model);
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
      ->add_option("--kv-tokens", options->engine.n_kv_positions,
                   "positions of the KV cache, shared by all requests (default: 4 contexts)")
      ->check(tokens);
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
      "  curl localhost:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", "
      "\"content\": \"Hi\"}]}'");
  command->callback([options, &context] { context.exit = serve(*options); });
}

}  // namespace lowbit::app

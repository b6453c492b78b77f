// SPDX-License-Identifier: Apache-2.0
// lowbit run: chat with a model, or complete a prompt.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/app/model_options.h"
#include "lowbit/app/terminal.h"
#include "lowbit/model/chat_template.h"
#include "lowbit/runtime/engine.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Options {
  ModelOptions model;
  std::optional<std::string> prompt;
  std::string system;
  std::int64_t n_tokens = -1, n_ctx = 0;
  std::optional<std::uint64_t> seed;
  SamplingParams sampling{.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f};
  std::vector<std::string> stop;
  bool raw = false, json = false;
};

struct Answer {
  std::string text;
  std::int64_t n_prompt = 0, n_generated = 0;
  double ttft_seconds = 0, decode_seconds = 0;
  FinishReason finish = FinishReason::stop;

  double tokens_per_second() const {
    return n_generated > 1 && decode_seconds > 0
               ? static_cast<double>(n_generated - 1) / decode_seconds
               : 0;
  }
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Session {
 public:
  static Result<std::unique_ptr<Session>> create(const Options& options) {
    auto session = std::unique_ptr<Session>(new Session(options));
    auto recipe = parse_recipe(options.model.recipe);
    if (!recipe) return std::move(recipe).error();
    session->pool_ = make_pool(options.model);
    // Started together with the loading: the time to the first token counts from here.
    session->start_ = Clock::now();
    auto file = ModelFile::open(options.model.model);
    if (!file) return std::move(file).error();
    if (!options.raw) {
      const std::string source = file->chat_template();
      if (source.empty()) {
        return Error(fmt::format("{} has no chat template; use --raw to complete a prompt as it is",
                                 file->path()));
      }
      auto parsed = ChatTemplate::parse(source);
      if (!parsed) return std::move(parsed).error().in(file->path());
      session->template_.emplace(std::move(*parsed));
    }
    auto model = load_model(*file, *recipe, *session->pool_, options.model.verbose,
                            options.model.pack_cache);
    if (!model) return std::move(model).error();
    session->model_ = std::move(*model);
    EngineOptions engine_options;
    engine_options.n_ctx = options.n_ctx;
    engine_options.kv = recipe->kv;
    auto engine = Engine::create(session->model_->backend(), session->model_->weights(),
                                 &session->model_->tokenizer(), engine_options);
    if (!engine) return std::move(engine).error();
    session->engine_ = std::move(*engine);
    return session;
  }

  /// Token ids of a conversation, or of the text alone with --raw.
  Result<std::vector<TokenId>> prompt_ids(const ordered_json& messages,
                                          const std::string& text) const {
    const Tokenizer& tokenizer = model_->tokenizer();
    if (!template_) return tokenizer.encode(text, /*add_bos=*/true, /*parse_special=*/true);
    const auto token_text = [&](const std::optional<TokenId>& id) {
      return id ? std::string(tokenizer.piece(*id)) : std::string();
    };
    const ordered_json variables = {{"messages", messages},
                                    {"add_generation_prompt", true},
                                    {"bos_token", token_text(tokenizer.bos())},
                                    {"eos_token", token_text(tokenizer.eos())}};
    auto rendered = template_->render(variables);
    if (!rendered) return std::move(rendered).error();
    return tokenizer.encode(*rendered, /*add_bos=*/true);
  }

  /// Streams the answer to `sink`; Ctrl-C ends it early.
  template <class Sink>
  Result<Answer> answer(std::vector<TokenId> ids, Sink&& sink) {
    Request request;
    Answer answer;
    answer.n_prompt = static_cast<std::int64_t>(ids.size());
    request.prompt = std::move(ids);
    request.sampling = options_.sampling;
    request.stop_strings = options_.stop;
    if (options_.n_tokens >= 0) request.max_tokens = options_.n_tokens;
    const auto id = engine_->add_request(std::move(request));
    if (!id) return Error(id.error());
    Clock::time_point first_token = start_;
    while (!engine_->is_idle()) {
      if (interrupted()) engine_->cancel(*id);
      for (const Output& output : engine_->step()) {
        if (output.token) {
          if (answer.n_generated++ == 0) {
            first_token = Clock::now();
            answer.ttft_seconds = seconds_since(start_);
          }
        }
        answer.text += output.text;
        sink(output.text);
        if (output.finish) answer.finish = *output.finish;
      }
    }
    answer.decode_seconds = seconds_since(first_token);
    return answer;
  }

  void restart_clock() { start_ = Clock::now(); }
  const Options& options() const { return options_; }

 private:
  explicit Session(const Options& options) : options_(options) {}
  const Options& options_;
  std::unique_ptr<ThreadPool> pool_;
  std::optional<ChatTemplate> template_;
  std::unique_ptr<LoadedModel> model_;
  std::unique_ptr<Engine> engine_;
  Clock::time_point start_;
};

ordered_json message(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

void print_stream(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string summary(const Answer& answer) {
  return fmt::format("{} prompt tokens, first token after {:.0f} ms, {} tokens at {:.1f}/s, {}",
                     answer.n_prompt, answer.ttft_seconds * 1e3, answer.n_generated,
                     answer.tokens_per_second(), name_of(answer.finish));
}

Exit one_shot(Session& session, const std::string& text) {
  const Options& options = session.options();
  ordered_json messages = ordered_json::array();
  if (!options.system.empty()) messages.push_back(message("system", options.system));
  messages.push_back(message("user", text));
  auto ids = session.prompt_ids(messages, text);
  if (!ids) return fail(ids.error());
  auto answer = session.answer(std::move(*ids), [&](const std::string& piece) {
    if (!options.json) print_stream(piece);
  });
  if (!answer) return fail(answer.error());
  Exit exit = Exit::ok;
  if (options.json) {
    const ordered_json object = {{"text", answer->text},
                                 {"prompt_tokens", answer->n_prompt},
                                 {"generated_tokens", answer->n_generated},
                                 {"ttft_ms", answer->ttft_seconds * 1e3},
                                 {"tokens_per_second", answer->tokens_per_second()},
                                 {"finish_reason", name_of(answer->finish)},
                                 {"seed", options.sampling.seed}};
    exit = print_result(object.dump() + "\n");
  } else {
    exit = print_result(answer->text.ends_with('\n') ? "" : "\n");
    if (options.model.verbose) spdlog::info("{}", summary(*answer));
  }
  return interrupted() ? Exit::interrupted : exit;
}

/// One line of the terminal; nothing at its end. An interrupt while nothing is typed asks for a way
/// out.
std::optional<std::string> read_line() {
  std::string line;
  while (true) {
    fmt::print("> ");
    std::fflush(stdout);
    if (std::getline(std::cin, line)) return line;
    if (!interrupted()) return std::nullopt;
    clear_interrupt();
    std::cin.clear();
    std::clearerr(stdin);
    fmt::print("\n{}Ctrl-D ends the chat.{}\n", dim_on(), style_off());
  }
}

Exit chat(Session& session) {
  const Options& options = session.options();
  ordered_json messages = ordered_json::array();
  if (!options.system.empty()) messages.push_back(message("system", options.system));
  fmt::print("{}Ctrl-C stops an answer, Ctrl-D ends the chat, /new starts afresh.{}\n", dim_on(),
             style_off());
  const std::size_t n_kept = messages.size();
  while (const auto line = read_line()) {
    if (line->empty()) continue;
    if (*line == "/new") {
      messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(n_kept), messages.end());
      continue;
    }
    messages.push_back(message("user", *line));
    session.restart_clock();
    auto ids = session.prompt_ids(messages, *line);
    if (!ids) return fail(ids.error());
    auto answer = session.answer(std::move(*ids), print_stream);
    if (!answer) {
      // The conversation outgrew the context, most likely: say so and let the user go on without
      // this turn.
      spdlog::error("{}; /new starts afresh", answer.error().message());
      messages.erase(messages.size() - 1);
      continue;
    }
    fmt::print("\n");
    if (options.model.verbose) spdlog::info("{}", summary(*answer));
    messages.push_back(message("assistant", answer->text));
    clear_interrupt();
  }
  fmt::print("\n");
  return Exit::ok;
}

Exit run(Options& options) {
  const bool has_terminal = isatty(STDIN_FILENO) != 0;
  if (!options.prompt && has_terminal && options.raw)
    return refuse(Error("--raw completes a prompt; give one with -p or on stdin"));
  if (!options.prompt && has_terminal && options.json)
    return refuse(Error("--json answers one prompt; give it with -p or on stdin"));
  if (!options.prompt && !has_terminal) {
    options.prompt =
        std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  constexpr std::int64_t any_vocabulary = std::int64_t{1} << 31;
  if (const Status status = check(options.sampling, any_vocabulary); !status)
    return refuse(status.error());
  options.sampling.seed = options.seed ? *options.seed : std::random_device{}();
  watch_interrupts();
  auto session = Session::create(options);
  if (!session) return fail(session.error());
  return options.prompt ? one_shot(**session, *options.prompt) : chat(**session);
}

}  // namespace

void add_run(CLI::App& parser, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parser.add_subcommand("run", "Chat with a model, or complete a prompt");
  add_model_option(*command, options->model);
  SamplingParams& sampling = options->sampling;
  constexpr std::int64_t most_tokens = std::int64_t{1} << 31;
  command->add_option(
      "-p,--prompt", options->prompt,
      "answer this and end; without it and with stdin not a terminal, stdin is the prompt");
  command->add_flag("--raw", options->raw,
                    "complete the prompt as it is, without the chat template");
  command->add_option("--system", options->system, "system message");
  command
      ->add_option("-n,--n-predict", options->n_tokens,
                   "at most this many tokens (default: until the model stops)")
      ->check(CLI::Range(std::int64_t{0}, most_tokens));
  command->add_option("-c,--ctx-size", options->n_ctx, "context in tokens (default: the model's)")
      ->check(CLI::Range(std::int64_t{1}, most_tokens));
  command->add_option("--temp", sampling.temperature, "temperature (0.8); 0 is greedy")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--top-k", sampling.top_k, "keep the k likeliest tokens (40); 0 is off")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--top-p", sampling.top_p, "keep the likeliest tokens of this mass (0.95)")
      ->check(CLI::Range(0.0, 1.0));
  command
      ->add_option("--min-p", sampling.min_p,
                   "drop tokens below this share of the likeliest (0.05)")
      ->check(CLI::Range(0.0, 1.0));
  command
      ->add_option("--repeat-penalty", sampling.repetition_penalty,
                   "divides logits of tokens that were there (1)")
      ->check(CLI::PositiveNumber);
  command->add_option("--presence-penalty", sampling.presence_penalty,
                      "subtracted once from tokens that were generated (0)");
  command->add_option("--frequency-penalty", sampling.frequency_penalty,
                      "subtracted for each time a token was generated (0)");
  command->add_option("-s,--seed", options->seed,
                      "the same seed gives the same answer (default: random)");
  command->add_option("--stop", options->stop, "text that ends the answer; may be given again")
      ->take_all();
  command->add_flag("--json", options->json,
                    "one JSON object on stdout instead of the streamed text");
  add_recipe_option(*command, options->model);
  add_pack_cache_option(*command, options->model);
  add_thread_option(*command, options->model);
  command->footer(
      "Examples:\n"
      "  lowbit run model.gguf\n"
      "  lowbit run -m model.gguf -p 'Why is the sky blue?' -n 100 --temp 0\n"
      "  echo 'Once upon a time' | lowbit run -m model.gguf --raw -n 50 --recipe w=int4.g32");
  command->callback([options, &context] { context.exit = run(*options); });
}

}  // namespace lowbit::app

// SPDX-License-Identifier: Apache-2.0
// The program: parses the command line, runs one subcommand, returns its exit code (docs:
// README.md).
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <new>
#include <string>

#include "lowbit/app/command.h"
#include "lowbit/app/interrupt.h"
#include "lowbit/kernels/kernel_table.h"

namespace lowbit::app {
namespace {

void set_up_log() {
  const bool colored = std::getenv("NO_COLOR") == nullptr;
  auto log = colored ? spdlog::stderr_color_mt("lowbit") : spdlog::stderr_logger_mt("lowbit");
  log->set_pattern("lowbit: %v");
  spdlog::set_default_logger(std::move(log));
}

Exit run(int argc, char** argv) {
  CLI::App parser{"lowbit: language models at low precision, from checkpoint to answers"};
  parser.set_version_flag("--version", std::string("lowbit ") + LOWBIT_VERSION);
  parser.require_subcommand(1);
  parser.footer("`lowbit COMMAND --help` shows options and examples.");
  // What the environment asks for is checked before anything is loaded or written.
  if (const auto kernels = select_kernels(); !kernels) return refuse(kernels.error());
  Context context;
  for (const AddCommand add : command_list) add(parser, context);
  try {
    parser.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // exit() prints help and version on stdout, what is wrong on stderr.
    return parser.exit(error, std::cout, std::cerr) == 0 ? Exit::ok : Exit::usage;
  }
  return context.exit;
}

}  // namespace

Exit fail(const Error& error) {
  if (interrupted()) {
    spdlog::error("interrupted");
    return Exit::interrupted;
  }
  spdlog::error("{}", error.message());
  return Exit::failure;
}

Exit refuse(const Error& error) {
  spdlog::error("{}", error.message());
  return Exit::usage;
}

Exit print_result(std::string_view text) {
  const std::size_t n_written = std::fwrite(text.data(), 1, text.size(), stdout);
  if (n_written != text.size() || std::fflush(stdout) != 0) {
    return fail(Error("cannot write the result to standard output"));
  }
  return Exit::ok;
}

}  // namespace lowbit::app

int main(int argc, char** argv) {
  lowbit::app::set_up_log();
  try {
    return static_cast<int>(lowbit::app::run(argc, argv));
  } catch (const std::bad_alloc&) {
    std::fputs("lowbit: out of memory; use a smaller model, context or thread count\n", stderr);
    return static_cast<int>(lowbit::app::Exit::failure);
  }
}

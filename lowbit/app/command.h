// SPDX-License-Identifier: Apache-2.0
// How a subcommand joins the command line: one file, one function in the list below. It adds its
// options to the parser and a callback that leaves its exit code in the context. Everything that
// prints is in this folder; results go to stdout, all else to stderr.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "lowbit/base/result.h"

namespace lowbit::app {

enum class Exit : int { ok = 0, failure = 1, usage = 2, gate = 3, interrupted = 130 };

struct Context {
  Exit exit = Exit::ok;
};

using AddCommand = void (*)(CLI::App& parser, Context& context);

void add_run(CLI::App& parser, Context& context);
void add_serve(CLI::App& parser, Context& context);
void add_inspect(CLI::App& parser, Context& context);
void add_quantize(CLI::App& parser, Context& context);
void add_sensitivity(CLI::App& parser, Context& context);
void add_convert(CLI::App& parser, Context& context);
void add_calibrate(CLI::App& parser, Context& context);
void add_eval(CLI::App& parser, Context& context);
void add_bench(CLI::App& parser, Context& context);
void add_formats(CLI::App& parser, Context& context);
void add_kernels(CLI::App& parser, Context& context);
void add_tokenize(CLI::App& parser, Context& context);
void add_render(CLI::App& parser, Context& context);

/// THE list of subcommands, in the order of --help.
inline constexpr std::array command_list{
    add_run,  add_serve, add_inspect, add_quantize, add_sensitivity, add_convert, add_calibrate,
    add_eval, add_bench, add_formats, add_kernels,  add_tokenize,    add_render};

/// Prints "lowbit: <message>" on stderr; the exit code is that of a failure, or of an interrupt
/// when one caused it.
Exit fail(const Error& error);
/// The same for a request that cannot be meant: exit code 2.
Exit refuse(const Error& error);

/// One JSON value or text on stdout, checked: a full disk or a closed pipe is a failure, not
/// silence.
Exit print_result(std::string_view text);

}  // namespace lowbit::app

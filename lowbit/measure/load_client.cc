// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/load_client.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <exception>
#include <optional>

#include <fmt/format.h>

#include "lowbit/measure/streamed_answer.h"

// g++ 12 does not see that Asio's coroutine frames pair their own operator new and delete.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace lowbit {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;
using Clock = std::chrono::steady_clock;
using Parser = http::response_parser<http::string_body>;
using Endpoints = tcp::resolver::results_type;

constexpr auto no_throw = net::as_tuple(net::use_awaitable);
constexpr auto longest_silence = std::chrono::minutes(60);  // a long queue
constexpr int status_ok = 200;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void rethrow(std::exception_ptr problem) {
  if (problem) std::rethrow_exception(problem);
}

http::request<http::string_body> request_of(const ServerAddress& server, std::string_view method,
                                            std::string_view path, std::string body) {
  constexpr unsigned http_1_1 = 11;
  const std::string target = server.base + std::string(path);
  http::request<http::string_body> request(http::string_to_verb({method.data(), method.size()}),
                                           {target.data(), target.size()}, http_1_1);
  request.set(http::field::host, server.host + ":" + server.port);
  request.set(http::field::user_agent, "lowbit-bench");
  if (!server.api_key.empty()) {
    request.set(http::field::authorization, "Bearer " + server.api_key);
  }
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = std::move(body);
  request.prepare_payload();
  return request;
}

Result<Endpoints> resolve(net::io_context& context, const ServerAddress& server) {
  error_code error;
  tcp::resolver resolver(context);
  const Endpoints found = resolver.resolve(server.host, server.port, error);
  if (error || found.empty()) {
    return Error(fmt::format("there is no server {}: {}", server.url(), error.message()));
  }
  return found;
}

/// A connection that is kept from one request to the next.
class Client {
 public:
  Client(net::io_context& context, const ServerAddress& server, const Endpoints& endpoints)
      : context_(context), server_(server), endpoints_(endpoints) {}

  /// Sends it and gives every piece of the body to `on_body`. The status, or what went wrong.
  template <class OnBody>
  net::awaitable<Result<int>> exchange(const http::request<http::string_body>& request,
                                       const OnBody& on_body) {
    const bool is_kept = stream_.has_value();
    std::optional<Parser> parser;
    error_code error = co_await send(request, parser);
    if (error && is_kept && error != beast::error::timeout) {
      // The server closed a connection that it need not keep: that is no failure of this request.
      stream_.reset();
      error = co_await send(request, parser);
    }
    // Not eager: a read then ends with what has come, not with the whole answer.
    while (!error && !parser->is_done()) {
      stream_->expires_after(longest_silence);
      error = std::get<0>(co_await http::async_read_some(*stream_, buffer_, *parser, no_throw));
      on_body(parser->get().result_int(), std::exchange(parser->get().body(), {}));
    }
    if (error || !parser->get().keep_alive()) stream_.reset();
    if (error) co_return problem(error);
    co_return static_cast<int>(parser->get().result_int());
  }

 private:
  net::awaitable<error_code> send(const http::request<http::string_body>& request,
                                  std::optional<Parser>& parser) {
    is_connected_ = stream_.has_value();
    if (!stream_) {
      stream_.emplace(context_);
      buffer_.clear();
      stream_->expires_after(longest_silence);
      const auto [error, endpoint] = co_await stream_->async_connect(endpoints_, no_throw);
      if (error) co_return error;
      is_connected_ = true;
      error_code ignored;
      stream_->socket().set_option(tcp::no_delay(true), ignored);
    }
    stream_->expires_after(longest_silence);
    // What is refused may be answered before it has been sent: the answer says more.
    co_await http::async_write(*stream_, request, no_throw);
    parser.emplace();
    parser->body_limit(boost::none);
    const auto [error, n_read] =
        co_await http::async_read_header(*stream_, buffer_, *parser, no_throw);
    co_return error;
  }

  Error problem(error_code error) const {
    if (!is_connected_) {
      return Error(fmt::format("cannot connect to {}: {}", server_.url(), error.message()));
    }
    if (error == beast::error::timeout) {
      return Error(
          fmt::format("{} said nothing for {} minutes", server_.url(), longest_silence.count()));
    }
    if (error == http::error::end_of_stream || error == net::error::connection_reset) {
      return Error(fmt::format("{} closed the connection without an answer", server_.url()));
    }
    if (error == http::error::partial_message) {
      return Error(fmt::format("{} closed the connection within its answer", server_.url()));
    }
    return Error(fmt::format("{} gave no HTTP answer: {}", server_.url(), error.message()));
  }

  net::io_context& context_;
  const ServerAddress& server_;
  const Endpoints& endpoints_;
  std::optional<beast::tcp_stream> stream_;
  beast::flat_buffer buffer_;
  bool is_connected_ = false;
};

class LoadRun {
 public:
  LoadRun(const ServerAddress& server, const Load& load)
      : server_(server), load_(load), ticks_(context_) {}

  Result<LoadResult> run() {
    auto endpoints = resolve(context_, server_);
    if (!endpoints) return std::move(endpoints).error();
    endpoints_ = *std::move(endpoints);
    result_.records.resize(load_.bodies.size());
    n_working_ = load_.bodies.size();
    if (load_.max_concurrency > 0) {
      n_working_ = std::min(n_working_, static_cast<std::size_t>(load_.max_concurrency));
    }
    start_ = Clock::now();
    for (std::size_t i = 0, n = n_working_; i < n; ++i) net::co_spawn(context_, work(), rethrow);
    if (load_.progress && n_working_ > 0) net::co_spawn(context_, show_progress(), rethrow);
    context_.run();
    if (is_stopped_) return Error("the test was stopped");
    return std::move(result_);
  }

 private:
  /// Takes requests in their order as long as there are any.
  net::awaitable<void> work() {
    Client client(context_, server_, endpoints_);
    net::steady_timer timer(context_);
    while (next_ < load_.bodies.size()) {
      const std::size_t i = next_++;
      timer.expires_at(start_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(load_.arrivals[i])));
      co_await timer.async_wait(no_throw);
      result_.records[i] = co_await send(client, i);
      ++n_done_;
    }
    if (--n_working_ == 0) {
      result_.seconds = seconds_since(start_);
      ticks_.cancel();
    }
  }

  net::awaitable<RequestRecord> send(Client& client, std::size_t i) {
    const auto request = request_of(server_, "POST", load_.path, load_.bodies[i]);
    StreamedAnswer answer;
    std::string refusal;
    const Clock::time_point sent = Clock::now();
    const auto status = co_await client.exchange(request, [&](unsigned code, std::string body) {
      if (code == status_ok) {
        answer.feed(body, seconds_since(sent));
      } else {
        refusal += body;
      }
    });
    RequestRecord record = answer.record(load_.n_input[i]);
    if (!status) {
      record.error = status.error().message();
    } else if (*status != status_ok) {
      record.error = fmt::format("{} answered {}: {}", server_.url(), *status, refusal_in(refusal));
    }
    record.start = std::chrono::duration<double>(sent - start_).count();
    co_return record;
  }

  net::awaitable<void> show_progress() {
    constexpr auto pause = std::chrono::milliseconds(100);
    while (n_working_ > 0) {
      const auto n_done = static_cast<std::int64_t>(n_done_);
      if (!load_.progress(n_done, static_cast<std::int64_t>(load_.bodies.size()))) {
        is_stopped_ = true;
        context_.stop();
      }
      ticks_.expires_after(pause);
      co_await ticks_.async_wait(no_throw);
    }
  }

  const ServerAddress& server_;
  const Load& load_;
  Endpoints endpoints_;
  LoadResult result_;
  Clock::time_point start_;
  std::size_t next_ = 0, n_done_ = 0, n_working_ = 0;
  bool is_stopped_ = false;
  net::io_context context_{1};  // one thread; last, so that its coroutines end before the rest
  net::steady_timer ticks_;
};

}  // namespace

std::string ServerAddress::url() const {
  const bool is_numeric = host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}{}", is_numeric ? "[" : "", host, is_numeric ? "]" : "", port,
                     base);
}

Result<ServerAddress> parse_server_url(std::string_view url) {
  constexpr std::string_view scheme = "http://", version = "/v1";
  const auto refuse = [&](std::string_view why) {
    return Error(fmt::format("--serve {}: {}; an address is http://HOST:PORT", url, why));
  };
  if (url.starts_with("https://")) return refuse("TLS is not spoken here");
  std::string_view rest = url;
  if (rest.starts_with(scheme)) rest.remove_prefix(scheme.size());
  if (rest.find("://") != rest.npos) return refuse("this is not HTTP");
  ServerAddress server{.host = {}, .port = "80", .base = {}, .api_key = {}};
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view place = rest.substr(0, slash), base = rest.substr(slash);
  while (base.ends_with('/')) base.remove_suffix(1);
  if (base.ends_with(version)) base.remove_suffix(version.size());
  server.base = base;
  if (place.starts_with('[')) {
    const std::size_t end = place.find(']');
    if (end == place.npos) return refuse("there is no ]");
    server.host = place.substr(1, end - 1);
    place.remove_prefix(end + 1);
    if (!place.empty() && !place.starts_with(':')) return refuse("a port follows a colon");
  } else {
    const std::size_t colon = std::min(place.find(':'), place.size());
    server.host = place.substr(0, colon);
    place.remove_prefix(colon);
  }
  if (!place.empty()) server.port = place.substr(1);
  constexpr std::size_t most_digits = 5;
  const bool is_number =
      !server.port.empty() && server.port.size() <= most_digits &&
      std::ranges::all_of(server.port, [](char c) { return c >= '0' && c <= '9'; });
  if (server.host.empty()) return refuse("there is no host");
  if (!is_number) return refuse("the port is no number");
  const bool is_plain =
      std::ranges::all_of(url, [](char c) { return c > ' ' && static_cast<signed char>(c) > 0; });
  if (!is_plain) return refuse("there are characters that belong in no address");
  return server;
}

Result<HttpReply> ask(const ServerAddress& server, std::string_view method, std::string_view path,
                      std::string body) {
  net::io_context context(1);
  const auto endpoints = resolve(context, server);
  if (!endpoints) return endpoints.error();
  Client client(context, server, *endpoints);
  const auto request = request_of(server, method, path, std::move(body));
  HttpReply reply;
  std::optional<Error> problem;
  const auto exchange = [&]() -> net::awaitable<void> {
    const auto status = co_await client.exchange(
        request, [&](unsigned, std::string piece) { reply.body += piece; });
    if (status) {
      reply.status = *status;
    } else {
      problem = status.error();
    }
  };
  net::co_spawn(context, exchange(), rethrow);
  context.run();
  if (problem) return *std::move(problem);
  return reply;
}

Result<LoadResult> run_load(const ServerAddress& server, const Load& load) {
  return LoadRun(server, load).run();
}

}  // namespace lowbit

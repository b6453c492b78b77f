// SPDX-License-Identifier: Apache-2.0
// The only file of the server besides tls_relay.cc that knows Boost. A connection is one coroutine
// that reads a request, hands it over and writes the answer as it comes; timers and the watch for a
// client that leaves cancel what it waits for.
#include "lowbit/server/http_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <chrono>
#include <exception>

#include <fmt/format.h>

#include "lowbit/server/tls_relay.h"

// g++ 12 does not see that Asio's coroutine frames pair their own operator new and delete.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace lowbit {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;
using Parser = http::request_parser<http::string_body>;

constexpr auto no_throw = net::as_tuple(net::use_awaitable);

std::chrono::steady_clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(seconds));
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

HttpRequest head_of(const http::request<http::string_body>& message) {
  HttpRequest request;
  const auto text = [](auto view) { return std::string(view.data(), view.size()); };
  request.method = text(message.method_string());
  const std::string target = text(message.target());
  const std::size_t mark = target.find('?');
  request.path = target.substr(0, mark);
  if (mark != std::string::npos) request.query = target.substr(mark + 1);
  for (const auto& field : message) {
    request.headers.emplace_back(lower_case(text(field.name_string())), text(field.value()));
  }
  return request;
}

std::string status_line_and_headers(const HttpResponse& response) {
  const auto reason = http::obsolete_reason(http::int_to_status(unsigned(response.status)));
  std::string text = fmt::format("HTTP/1.1 {} {}\r\n", response.status,
                                 std::string_view(reason.data(), reason.size()));
  if (!response.content_type.empty()) text += "Content-Type: " + response.content_type + "\r\n";
  for (const auto& [name, value] : response.headers) text += name + ": " + value + "\r\n";
  if (response.close) text += "Connection: close\r\n";
  return text;
}

class Connection;

/// The answer on its way. It outlives its connection when a handler still holds it.
class LiveExchange final : public Exchange {
 public:
  LiveExchange(Connection* connection, HttpRequest request, bool keep_alive, bool can_chunk)
      : connection_(connection),
        request_(std::move(request)),
        keep_alive_(keep_alive),
        can_chunk_(can_chunk) {}

  const HttpRequest& request() const override { return request_; }
  void respond(HttpResponse response) override;
  void begin(HttpResponse head) override;
  void write(std::string_view piece) override;
  void end() override;
  void when_gone(std::function<void()> gone) override {
    gone_ = std::move(gone);
    if (is_gone_ && !ended_) tell_gone();
  }

  bool ended() const { return ended_; }
  bool keep_alive() const { return keep_alive_; }
  bool has_unsent() const { return !unsent_.empty(); }
  std::string take_unsent() { return std::exchange(unsent_, {}); }
  /// The connection is done with it: nothing may wake it any more.
  void detach();

 private:
  void tell_gone() {
    if (const auto call = std::exchange(gone_, nullptr)) call();
  }
  void append(std::string_view piece);
  void wake();

  Connection* connection_;  // until detach()
  HttpRequest request_;
  bool keep_alive_, can_chunk_;
  bool began_ = false, ended_ = false, is_gone_ = false;
  std::string unsent_;
  std::function<void()> gone_;
};

class ServerImpl;

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, ServerImpl& server);
  ~Connection();
  void start();
  void wake() { wake_.cancel(); }
  const HttpLimits& limits() const;

 private:
  net::awaitable<void> run();
  /// False: the connection ends.
  net::awaitable<bool> serve_one();
  net::awaitable<bool> send_answer(std::shared_ptr<LiveExchange> exchange);
  net::awaitable<bool> send(std::string text);
  net::awaitable<void> refuse(int status, std::string message);
  net::awaitable<void> linger();
  void watch(std::shared_ptr<LiveExchange> exchange);
  void set_deadline(double seconds);
  void clear_deadline();

  tcp::socket socket_;
  ServerImpl& server_;
  boost::beast::flat_buffer buffer_;
  net::steady_timer deadline_, wake_;
  bool timed_out_ = false, is_gone_ = false;
  std::shared_ptr<LiveExchange> exchange_;  // being answered
};

class ServerImpl final : public HttpServer {
 public:
  ServerImpl(const HttpLimits& limits, TlsFiles tls)
      : limits_(limits), tls_files_(std::move(tls)), acceptor_(context_) {}
  ~ServerImpl() override {
    // Coroutines that still wait own connections, which count themselves down here.
    context_.stop();
  }

  Status open(const std::string& host, int port);
  int port() const override {
    error_code error;
    return acceptor_.local_endpoint(error).port();
  }
  std::int64_t n_connections() const override { return n_connections_; }
  void run(Handlers handlers) override;
  Status reload_tls() override;
  void stop() override { context_.stop(); }
  void post(std::function<void()> call) override { net::post(context_, std::move(call)); }
  void after(double seconds, std::function<void()> call) override;
  void on_signals(const std::vector<int>& signals, std::function<void(int)> call) override;

  const HttpLimits& limits() const { return limits_; }
  const Handlers& handlers() const { return handlers_; }
  void count(std::int64_t change) { n_connections_ += change; }

 private:
  net::awaitable<void> accept();
  void wait_for_signal(std::shared_ptr<net::signal_set> set, std::function<void(int)> call);

  const HttpLimits limits_;
  const TlsFiles tls_files_;
  TlsContext tls_;  // null: plain HTTP
  Handlers handlers_;
  std::int64_t n_connections_ = 0;  // before context_: connections die with it
  net::io_context context_{1};      // one thread
  tcp::acceptor acceptor_;
};

// ---- the answer

void LiveExchange::wake() {
  if (connection_ != nullptr) connection_->wake();
}

void LiveExchange::detach() {
  connection_ = nullptr;
  is_gone_ = true;
  unsent_.clear();
  if (!ended_) tell_gone();
  gone_ = nullptr;
}

void LiveExchange::append(std::string_view piece) {
  if (piece.empty()) return;
  const bool is_head = request_.method == "HEAD";
  if (is_head) return;
  if (can_chunk_) {
    fmt::format_to(std::back_inserter(unsent_), "{:x}\r\n", piece.size());
    unsent_ += piece;
    unsent_ += "\r\n";
  } else {
    unsent_ += piece;
  }
}

void LiveExchange::respond(HttpResponse response) {
  if (is_gone_ || began_) return;
  began_ = ended_ = true;
  if (response.close) keep_alive_ = false;
  response.close = !keep_alive_;
  unsent_ += status_line_and_headers(response);
  constexpr int no_content = 204, not_modified = 304;  // these have no body
  if (response.status != no_content && response.status != not_modified) {
    fmt::format_to(std::back_inserter(unsent_), "Content-Length: {}\r\n", response.body.size());
  }
  unsent_ += "\r\n";
  if (request_.method != "HEAD") unsent_ += response.body;
  wake();
}

void LiveExchange::begin(HttpResponse head) {
  if (is_gone_ || began_) return;
  began_ = true;
  if (!can_chunk_ || head.close) keep_alive_ = false;
  head.close = !keep_alive_;
  unsent_ += status_line_and_headers(head);
  unsent_ += can_chunk_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
  append(head.body);
  wake();
}

void LiveExchange::write(std::string_view piece) {
  if (is_gone_ || !began_ || ended_) return;
  append(piece);
  wake();
}

void LiveExchange::end() {
  if (is_gone_ || !began_ || ended_) return;
  ended_ = true;
  if (can_chunk_ && request_.method != "HEAD") unsent_ += "0\r\n\r\n";
  wake();
}

// ---- a connection

Connection::Connection(tcp::socket socket, ServerImpl& server)
    : socket_(std::move(socket)),
      server_(server),
      deadline_(socket_.get_executor()),
      wake_(socket_.get_executor()) {
  server_.count(1);
}

Connection::~Connection() {
  if (exchange_) exchange_->detach();
  server_.count(-1);
}

const HttpLimits& Connection::limits() const {
  return server_.limits();
}

void Connection::start() {
  net::co_spawn(
      socket_.get_executor(), [self = shared_from_this()] { return self->run(); },
      // Out of memory ends the connection, not the server.
      [self = shared_from_this()](std::exception_ptr) {
        if (self->exchange_) self->exchange_->detach();
        self->exchange_.reset();
      });
}

/// When it passes, whatever the coroutine waits for on the socket ends.
void Connection::set_deadline(double seconds) {
  timed_out_ = false;
  deadline_.expires_after(duration_of(seconds));
  deadline_.async_wait([self = shared_from_this()](error_code error) {
    if (error || self->deadline_.expiry() > std::chrono::steady_clock::now()) return;
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Connection::clear_deadline() {
  deadline_.expires_at(net::steady_timer::time_point::max());
}

net::awaitable<void> Connection::run() {
  while (co_await serve_one()) {
  }
  if (exchange_) exchange_->detach();
  exchange_.reset();
  deadline_.cancel();
  error_code ignored;
  socket_.close(ignored);
}

net::awaitable<bool> Connection::serve_one() {
  if (buffer_.size() == 0) {
    buffer_.shrink_to_fit();  // a large body leaves a large buffer, and most connections are idle
    set_deadline(limits().idle_seconds);
    const auto [error] = co_await socket_.async_wait(tcp::socket::wait_read, no_throw);
    if (error) co_return false;
  }
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(limits().header_bytes));
  parser.body_limit(limits().body_bytes);
  set_deadline(limits().header_seconds);
  {
    const auto [error, n_bytes] =
        co_await http::async_read_header(socket_, buffer_, parser, no_throw);
    if (timed_out_) {
      co_await refuse(408, "the request's header took too long");
      co_return false;
    }
    if (error == http::error::body_limit) {
      co_await refuse(413, fmt::format("the body is larger than {} bytes", limits().body_bytes));
      co_return false;
    }
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      co_await refuse(431,
                      fmt::format("the header is larger than {} bytes", limits().header_bytes));
      co_return false;
    }
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message) {
      co_await refuse(400, "this is not HTTP/1.1: " + error.message());
      co_return false;
    }
    if (error) co_return false;
  }
  HttpRequest request = head_of(parser.get());
  const bool keep_alive = parser.get().keep_alive();
  const bool can_chunk = parser.get().version() >= 11;
  clear_deadline();
  if (auto answer = server_.handlers().check_head(request)) {
    const bool has_body = !parser.is_done();
    exchange_ = std::make_shared<LiveExchange>(this, std::move(request), keep_alive && !has_body,
                                               can_chunk);
    exchange_->respond(std::move(*answer));
    const bool goes_on = co_await send_answer(exchange_);
    if (has_body) co_await linger();
    co_return goes_on;
  }
  if (request.header("expect") == "100-continue" && !parser.is_done()) {
    if (!co_await send("HTTP/1.1 100 Continue\r\n\r\n")) co_return false;
  }
  if (!parser.is_done()) {
    set_deadline(limits().body_seconds);
    const auto [error, n_bytes] = co_await http::async_read(socket_, buffer_, parser, no_throw);
    if (timed_out_) {
      co_await refuse(408, "the request's body took too long");
      co_return false;
    }
    if (error == http::error::body_limit) {
      co_await refuse(413, fmt::format("the body is larger than {} bytes", limits().body_bytes));
      co_return false;
    }
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message) {
      co_await refuse(400, "the body is not HTTP/1.1: " + error.message());
      co_return false;
    }
    if (error) co_return false;
    clear_deadline();
  }
  request.body = std::move(parser.get().body());
  const auto exchange =
      std::make_shared<LiveExchange>(this, std::move(request), keep_alive, can_chunk);
  exchange_ = exchange;
  watch(exchange);
  server_.handlers().handle(exchange);
  co_return co_await send_answer(exchange);
}

/// Until the answer has ended or the client has gone. True: another request may follow.
net::awaitable<bool> Connection::send_answer(std::shared_ptr<LiveExchange> exchange) {
  bool is_whole = false;
  while (true) {
    if (exchange->has_unsent()) {
      if (!co_await send(exchange->take_unsent())) break;
      continue;
    }
    if (exchange->ended()) {
      is_whole = true;
      break;
    }
    if (is_gone_) break;
    wake_.expires_at(net::steady_timer::time_point::max());
    co_await wake_.async_wait(no_throw);
  }
  const bool keep_alive = exchange->keep_alive();
  exchange_.reset();
  exchange->detach();
  error_code ignored;
  socket_.cancel(ignored);  // the watch
  if (is_whole && !keep_alive) {
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    co_return false;
  }
  co_return is_whole&& keep_alive && !is_gone_;
}

net::awaitable<bool> Connection::send(std::string text) {
  set_deadline(limits().stall_seconds);
  const auto [error, n_bytes] = co_await net::async_write(socket_, net::buffer(text), no_throw);
  clear_deadline();
  co_return !error;
}

net::awaitable<void> Connection::refuse(int status, std::string message) {
  HttpResponse response = server_.handlers().refuse(status, message);
  response.close = true;
  std::string text = status_line_and_headers(response);
  text += fmt::format("Content-Length: {}\r\n\r\n", response.body.size()) + response.body;
  co_await send(std::move(text));
  co_await linger();
}

/// Takes what the client is still sending: closing at once would reset the connection, and the
/// client would lose the answer that says why.
net::awaitable<void> Connection::linger() {
  constexpr double longest_seconds = 5;
  constexpr std::size_t most_bytes = std::size_t{256} << 20, step_bytes = std::size_t{64} << 10;
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  set_deadline(longest_seconds);
  buffer_.clear();
  std::vector<char> waste(step_bytes);
  for (std::size_t n_taken = 0; n_taken < most_bytes && !timed_out_;) {
    const auto [error, n_bytes] = co_await socket_.async_read_some(net::buffer(waste), no_throw);
    if (error) break;
    n_taken += n_bytes;
  }
}

/// Notices the end of the stream while an answer is computed. What a client sends ahead of its
/// answer (pipelining) is kept for the next request; one that sends a lot ahead is watched no more.
void Connection::watch(std::shared_ptr<LiveExchange> exchange) {
  socket_.async_wait(
      tcp::socket::wait_read, [self = shared_from_this(), exchange](error_code error) {
        if (error || self->exchange_ != exchange) return;
        constexpr std::size_t step_bytes = 4096;
        if (self->buffer_.size() > self->limits().header_bytes) return;
        const auto space = self->buffer_.prepare(step_bytes);
        const ssize_t n_bytes =
            ::recv(self->socket_.native_handle(), space.data(), space.size(), MSG_DONTWAIT);
        if (n_bytes > 0) self->buffer_.commit(static_cast<std::size_t>(n_bytes));
        const bool is_early =
            n_bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
        if (n_bytes > 0 || is_early) return self->watch(exchange);
        self->is_gone_ = true;
        self->wake();
        if (!exchange->ended()) exchange->detach();
      });
}

// ---- the server

Status ServerImpl::open(const std::string& host, int port) {
  const std::string place = fmt::format("{}:{}", host, port);
  error_code error;
  tcp::resolver resolver(context_);
  const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, error);
  if (error || found.empty()) {
    return Error(fmt::format("there is no address {}: {}", place, error.message()));
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(net::socket_base::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  constexpr int backlog = 4096;
  if (!error) acceptor_.listen(backlog, error);
  if (error) {
    return Error(fmt::format("cannot listen on {}: {}; choose another with --host and --port",
                             place, error.message()));
  }
  return ok();
}

net::awaitable<void> ServerImpl::accept() {
  constexpr double pause_seconds = 0.05;
  while (true) {
    auto [error, socket] = co_await acceptor_.async_accept(no_throw);
    if (error == net::error::operation_aborted) co_return;
    if (error) {  // out of descriptors, most likely: others will close theirs
      net::steady_timer pause(context_, duration_of(pause_seconds));
      co_await pause.async_wait(no_throw);
      continue;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    if (n_connections_ >= limits_.n_connections && tls_ != nullptr) continue;
    if (n_connections_ >= limits_.n_connections) {
      HttpResponse busy = handlers_.refuse(503, "too many connections");
      busy.close = true;
      const std::string text = status_line_and_headers(busy) +
                               fmt::format("Content-Length: {}\r\n\r\n", busy.body.size()) +
                               busy.body;
      socket.non_blocking(true, ignored);
      socket.write_some(net::buffer(text), ignored);
      continue;
    }
    if (tls_ != nullptr) {
      auto plain = relay_tls(std::move(socket), tls_, limits_);
      if (!plain) continue;
      socket = *std::move(plain);
    }
    std::make_shared<Connection>(std::move(socket), *this)->start();
  }
}

Status ServerImpl::reload_tls() {
  if (tls_files_.certificate.empty()) return ok();
  auto loaded = load_tls(tls_files_);
  if (!loaded) return std::move(loaded).error();
  tls_ = *std::move(loaded);
  return ok();
}

void ServerImpl::run(Handlers handlers) {
  handlers_ = std::move(handlers);
  net::co_spawn(context_, accept(), net::detached);
  while (!context_.stopped()) {
    try {
      context_.run();
    } catch (const std::exception&) {
      // Out of memory in one handler; the others go on.
    }
  }
}

void ServerImpl::after(double seconds, std::function<void()> call) {
  auto timer = std::make_shared<net::steady_timer>(context_, duration_of(seconds));
  timer->async_wait([timer, call = std::move(call)](error_code error) {
    if (!error) call();
  });
}

void ServerImpl::on_signals(const std::vector<int>& signals, std::function<void(int)> call) {
  auto set = std::make_shared<net::signal_set>(context_);
  for (const int signal : signals) set->add(signal);
  wait_for_signal(std::move(set), std::move(call));
}

void ServerImpl::wait_for_signal(std::shared_ptr<net::signal_set> set,
                                 std::function<void(int)> call) {
  net::signal_set& signals = *set;
  signals.async_wait(
      [this, set = std::move(set), call = std::move(call)](error_code error, int signal) mutable {
        if (error) return;
        call(signal);
        wait_for_signal(std::move(set), std::move(call));
      });
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const std::string& host, int port,
                                                       const HttpLimits& limits,
                                                       const TlsFiles& tls) {
  auto server = std::make_unique<ServerImpl>(limits, tls);
  if (Status ready = server->reload_tls(); !ready) return std::move(ready).error();
  if (Status opened = server->open(host, port); !opened) return std::move(opened).error();
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace lowbit

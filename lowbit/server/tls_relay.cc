// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/tls_relay.h"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <exception>
#include <utility>

#include <fmt/format.h>

// g++ 12 does not see that Asio's coroutine frames pair their own operator new and delete.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace lowbit {
namespace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

constexpr auto no_throw = net::as_tuple(net::use_awaitable);
constexpr std::size_t step_bytes = std::size_t{16} << 10;  // of one TLS record

class Relay final : public std::enable_shared_from_this<Relay> {
 public:
  Relay(tcp::socket encrypted, tcp::socket plain, TlsContext context, const HttpLimits& limits)
      : context_(std::move(context)),
        outer_(std::move(encrypted), *context_),
        inner_(std::move(plain)),
        deadline_(inner_.get_executor()),
        handshake_seconds_(limits.header_seconds),
        stall_seconds_(limits.stall_seconds) {}

  void start() { spawn(&Relay::run); }

 private:
  /// Out of memory ends the connection, not the server.
  void spawn(net::awaitable<void> (Relay::*part)()) {
    net::co_spawn(
        inner_.get_executor(), [self = shared_from_this(), part] { return (self.get()->*part)(); },
        [self = shared_from_this()](std::exception_ptr problem) {
          if (problem) self->close();
        });
  }

  net::awaitable<void> run() {
    set_deadline(handshake_seconds_);
    const auto [error] = co_await outer_.async_handshake(net::ssl::stream_base::server, no_throw);
    clear_deadline();
    if (error) {
      close();
      co_return;
    }
    spawn(&Relay::take_in);
    co_await give_out();
  }

  net::awaitable<void> take_in() {
    std::array<char, step_bytes> piece;
    while (true) {
      const auto [error, n_bytes] = co_await outer_.async_read_some(net::buffer(piece), no_throw);
      if (error) break;
      const auto [broken, n_written] =
          co_await net::async_write(inner_, net::buffer(piece.data(), n_bytes), no_throw);
      if (broken) break;
    }
    error_code ignored;
    inner_.shutdown(tcp::socket::shutdown_send, ignored);  // the server sees the client leave
  }

  net::awaitable<void> give_out() {
    std::array<char, step_bytes> piece;
    while (true) {
      const auto [error, n_bytes] = co_await inner_.async_read_some(net::buffer(piece), no_throw);
      if (error) break;
      set_deadline(stall_seconds_);
      const auto [broken, n_written] =
          co_await net::async_write(outer_, net::buffer(piece.data(), n_bytes), no_throw);
      clear_deadline();
      if (broken) break;
    }
    constexpr double farewell_seconds = 1;
    set_deadline(farewell_seconds);
    co_await outer_.async_shutdown(no_throw);
    clear_deadline();
    close();
  }

  /// When it passes, whatever waits for the client ends.
  void set_deadline(double seconds) {
    deadline_.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(
        std::chrono::duration<double>(seconds)));
    deadline_.async_wait([self = shared_from_this()](error_code error) {
      if (error || self->deadline_.expiry() > std::chrono::steady_clock::now()) return;
      error_code ignored;
      self->outer_.lowest_layer().cancel(ignored);
    });
  }
  void clear_deadline() { deadline_.expires_at(net::steady_timer::time_point::max()); }
  void close() {
    error_code ignored;
    outer_.lowest_layer().close(ignored);
    inner_.close(ignored);
    deadline_.cancel();
  }

  TlsContext context_;  // before outer_, which uses it
  net::ssl::stream<tcp::socket> outer_;
  tcp::socket inner_;
  net::steady_timer deadline_;
  const double handshake_seconds_, stall_seconds_;
};

}  // namespace

Result<TlsContext> load_tls(const TlsFiles& files) {
  auto context = std::make_shared<net::ssl::context>(net::ssl::context::tls_server);
  error_code error;
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  context->use_certificate_chain_file(files.certificate, error);
  if (error) {
    return Error(
        fmt::format("cannot use the certificate {}: {}", files.certificate, error.message()));
  }
  context->use_private_key_file(files.key, net::ssl::context::pem, error);
  if (error) {
    return Error(fmt::format("cannot use the key {} with the certificate {}: {}", files.key,
                             files.certificate, error.message()));
  }
  return context;
}

Result<tcp::socket> relay_tls(tcp::socket encrypted, TlsContext context, const HttpLimits& limits) {
  std::array<int, 2> ends;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return Error("no descriptors are left");
  }
  const auto executor = encrypted.get_executor();
  tcp::socket plain(executor), inner(executor);
  error_code error;
  plain.assign(tcp::v4(), ends[0], error);
  if (error) {
    ::close(ends[0]);
    ::close(ends[1]);
    return Error(error.message());
  }
  inner.assign(tcp::v4(), ends[1], error);
  if (error) {
    ::close(ends[1]);
    return Error(error.message());
  }
  std::make_shared<Relay>(std::move(encrypted), std::move(inner), std::move(context), limits)
      ->start();
  return plain;
}

}  // namespace lowbit

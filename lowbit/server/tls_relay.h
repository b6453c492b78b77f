// SPDX-License-Identifier: Apache-2.0
// TLS before the HTTP server, in the same thread: each encrypted connection is decrypted into one
// end of a socket pair, and the server speaks plain HTTP at the other, exactly as without TLS.
// Costs two descriptors and a copy; a template over both kinds of stream was rejected, because the
// watch for clients that leave reads the socket itself. Only http_server.cc includes this.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

#include "lowbit/base/result.h"
#include "lowbit/server/http_server.h"

namespace lowbit {

using TlsContext = std::shared_ptr<boost::asio::ssl::context>;

/// TLS 1.2 or newer with this certificate chain and key, both PEM. Errors name the file.
Result<TlsContext> load_tls(const TlsFiles& files);

/// The plain end of a connection; closing it ends the connection. Errors: no descriptors left.
Result<boost::asio::ip::tcp::socket> relay_tls(boost::asio::ip::tcp::socket encrypted,
                                               TlsContext context, const HttpLimits& limits);

}  // namespace lowbit

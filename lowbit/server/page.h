// SPDX-License-Identifier: Apache-2.0
// The page at /: the files of lowbit/server/page as they were when the binary was built. Nothing is
// read from disk, so the page always fits the server and no path of a request is a path of a file.
#pragma once

#include <span>
#include <string_view>

#include "lowbit/server/http.h"

namespace lowbit {

struct EmbeddedFile {
  std::string_view name;  // of the file, without its folder
  std::string_view etag;  // with its quotes: the beginning of the SHA-256 of the bytes
  std::string_view bytes;
};

/// All of them; the build makes it (cmake/embed_files.cmake).
std::span<const EmbeddedFile> page_files();

/// What GET of / or of /page/NAME gives: the file, 304 if the client has it, or 404.
HttpResponse page_response(const HttpRequest& request);

}  // namespace lowbit

// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/page.h"

#include <algorithm>
#include <array>

#include "lowbit/server/api_error.h"

namespace lowbit {
namespace {

constexpr std::string_view files_path = "/page/", first_file = "index.html";

struct ContentType {
  std::string_view ending, type;
};

constexpr std::array content_types{
    ContentType{".html", "text/html; charset=utf-8"},
    ContentType{".css", "text/css; charset=utf-8"},
    ContentType{".js", "text/javascript; charset=utf-8"},
};

// The page runs its own files and talks to its own server, nothing else: text of a model that got
// into the document could neither run nor send anything.
constexpr std::string_view policy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

std::string_view content_type_of(std::string_view name) {
  for (const auto& [ending, type] : content_types) {
    if (name.ends_with(ending)) return type;
  }
  return "application/octet-stream";
}

}  // namespace

HttpResponse page_response(const HttpRequest& request) {
  const std::string_view path = request.path;
  const std::string_view name =
      path.starts_with(files_path) ? path.substr(files_path.size()) : first_file;
  const auto files = page_files();
  const auto file = std::ranges::find(files, name, &EmbeddedFile::name);
  if (file == files.end()) {
    return to_response(
        {.status = 404, .message = "the page has no such file", .code = "not_found"});
  }
  HttpResponse response;
  // no-cache: kept, but asked for again, so that a new binary's page is there at once.
  response.headers = {{"ETag", std::string(file->etag)},
                      {"Cache-Control", "no-cache"},
                      {"Content-Security-Policy", std::string(policy)},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"}};
  constexpr int not_modified = 304;
  if (request.header("if-none-match").find(file->etag) != std::string_view::npos) {
    response.status = not_modified;
    response.content_type = "";
    return response;
  }
  response.content_type = content_type_of(name);
  response.body = file->bytes;
  return response;
}

}  // namespace lowbit

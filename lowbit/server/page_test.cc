// SPDX-License-Identifier: Apache-2.0
// The page as it is served. What it does is tested in a browser: tests/test_page.py.
#include "lowbit/server/page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

namespace lowbit {
namespace {

HttpResponse get(std::string path, HttpHeaders headers = {}) {
  HttpRequest request;
  request.method = "GET";
  request.path = std::move(path);
  request.headers = std::move(headers);
  return page_response(request);
}

std::string header(const HttpResponse& response, std::string_view name) {
  const auto at = std::ranges::find(response.headers, name, &HttpHeaders::value_type::first);
  return at == response.headers.end() ? "" : at->second;
}

TEST(Page, EveryFileIsServedAsItIs) {
  ASSERT_GE(page_files().size(), 3U);
  for (const EmbeddedFile& file : page_files()) {
    std::ifstream source(
        std::string(LOWBIT_SOURCE_DIR "/lowbit/server/page/") + std::string(file.name),
        std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(source)), {});
    ASSERT_FALSE(bytes.empty()) << file.name;
    const HttpResponse response = get("/page/" + std::string(file.name));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, bytes) << file.name;
    EXPECT_TRUE(response.content_type.starts_with("text/")) << file.name;
    EXPECT_EQ(header(response, "X-Content-Type-Options"), "nosniff");
    EXPECT_TRUE(header(response, "Content-Security-Policy").starts_with("default-src 'none';"));
  }
  EXPECT_EQ(get("/").body, get("/page/index.html").body);
  EXPECT_EQ(get("/").content_type, "text/html; charset=utf-8");
}

TEST(Page, WhatTheClientHasIsNotSentAgain) {
  const std::string etag = header(get("/"), "ETag");
  ASSERT_GT(etag.size(), 2U);
  const HttpResponse same = get("/", {{"if-none-match", "W/\"x\", " + etag}});
  EXPECT_EQ(same.status, 304);
  EXPECT_EQ(same.body, "");
  EXPECT_EQ(header(same, "ETag"), etag);
  EXPECT_EQ(get("/", {{"if-none-match", "\"other\""}}).status, 200);
}

TEST(Page, ThereIsNothingElse) {
  for (const char* path : {"/page/", "/page/none.js", "/page/../page.cc", "/page/index.html/"}) {
    EXPECT_EQ(get(path).status, 404) << path;
  }
}

}  // namespace
}  // namespace lowbit

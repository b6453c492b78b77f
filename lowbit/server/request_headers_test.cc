// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/request_headers.h"

#include <gtest/gtest.h>

#include "lowbit/base/test_files.h"
#include "lowbit/base/text_file.h"
#include "lowbit/server/api_keys.h"

namespace lowbit {
namespace {

TEST(RequestHeaders, OnlyPlainIdsComeBack) {
  const auto id_of = [](const std::string& given) {
    HttpRequest request;
    request.headers = {{"x-request-id", given}};
    return request_id(request, [] { return std::string("ours"); });
  };
  EXPECT_EQ(id_of("a-1_b.C"), "a-1_b.C");
  for (const std::string given : {"", "a b", "a\r\nSet-Cookie: x", "a\xc3\xa9"}) {
    EXPECT_EQ(id_of(given), "ours");
  }
  constexpr std::size_t too_long = 129;
  EXPECT_EQ(id_of(std::string(too_long, 'a')), "ours");
}

TEST(RequestHeaders, OriginsAreComparedWhole) {
  const std::vector<std::string> origins{"https://a.example"};
  for (const auto* const origin : {"https://a.example", "http://localhost", "https://localhost:443",
                                   "http://127.0.0.1:8000", "http://[::1]:3000"}) {
    EXPECT_TRUE(is_origin_allowed(origin, origins)) << origin;
  }
  for (const auto* const origin :
       {"", "null", "http://a.example", "https://a.example.evil", "https://b.a.example",
        "http://localhost.evil", "http://localhost:80@evil", "http://evil/localhost"}) {
    EXPECT_FALSE(is_origin_allowed(origin, origins)) << origin;
  }
  const std::vector<std::string> all{"*"};
  EXPECT_TRUE(is_origin_allowed("https://b.example", all));
}

TEST(RequestHeaders, PercentSigns) {
  EXPECT_EQ(percent_decoded("a%2Fb%20c"), "a/b c");
  EXPECT_EQ(percent_decoded("%"), "%");
  EXPECT_EQ(percent_decoded("%4"), "%4");
  EXPECT_EQ(percent_decoded("%zz%-1"), "%zz%-1");
}

TEST(RequestHeaders, FieldNamesFitOneHeader) {
  EXPECT_EQ(field_names(std::vector<std::string>{"a", "b c", "d\r\ne", "f"}), "a, f");
  const std::vector<std::string> many(1000, "name");
  EXPECT_LT(field_names(many).size(), 600u);
}

TEST(ApiKeys, AllowExactlyTheirKeys) {
  const auto keys = ApiKeys::load("", {"abc", "abcdef"});
  ASSERT_TRUE(keys);
  EXPECT_TRUE(keys->are_needed());
  EXPECT_TRUE(keys->allow("Bearer abc"));
  EXPECT_TRUE(keys->allow("Bearer abcdef"));
  for (const auto* const given : {"", "abc", "Bearer ", "Bearer ab", "Bearer abcabc", "Bearer abd",
                                  "bearer abc", "Bearer  abc", "Basic abc"}) {
    EXPECT_FALSE(keys->allow(given)) << given;
  }
  EXPECT_TRUE(ApiKeys().allow(""));
}

TEST(ApiKeys, AreLinesOfAFile) {
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "keys").string();
  ASSERT_TRUE(write_text(path, "# ours\nfirst\r\n\nsecond"));
  const auto keys = ApiKeys::load(path);
  ASSERT_TRUE(keys) << keys.error().message();
  EXPECT_TRUE(keys->allow("Bearer first"));
  EXPECT_TRUE(keys->allow("Bearer second"));
  EXPECT_FALSE(keys->allow("Bearer # ours"));
  ASSERT_TRUE(write_text(path, "# none\n"));
  EXPECT_FALSE(ApiKeys::load(path));
}

TEST(ApiKeys, RefuseWhatNoHeaderCarries) {
  EXPECT_FALSE(ApiKeys::load("", {""}));
  EXPECT_FALSE(ApiKeys::load("", {"a b"}));
  EXPECT_FALSE(ApiKeys::load("", {"a\xc3\xa9"}));
  EXPECT_FALSE(ApiKeys::load("/no/such/file"));
}

}  // namespace
}  // namespace lowbit

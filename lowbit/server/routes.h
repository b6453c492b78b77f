// SPDX-License-Identifier: Apache-2.0
// THE list of routes: the server answers these and /openapi.json describes these.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "lowbit/server/json_body.h"
#include "lowbit/server/openai_fields.h"

namespace lowbit {

enum class RouteName : std::uint8_t {
  models,
  model,
  chat,
  completions,
  responses,
  embeddings,
  tokenize,
  detokenize,
  apply_template,
  health,
  ready,
  metrics,
  version,
  openapi,
  page,
  page_file
};

struct Route {
  RouteName name;
  std::string_view method, path;  // a path that ends in / takes a name behind it, but for / itself
  bool is_open;                   // needs no API key
  std::optional<Endpoint> endpoint;
  std::string_view about;
};

inline constexpr std::array route_list{
    Route{RouteName::models, "GET", "/v1/models", false, {}, "the models that are served"},
    Route{RouteName::model, "GET", "/v1/models/", false, {}, "one of them"},
    Route{RouteName::chat, "POST", "/v1/chat/completions", false, Endpoint::chat,
          "the next message of a conversation"},
    Route{RouteName::completions, "POST", "/v1/completions", false, Endpoint::completions,
          "what follows a text"},
    Route{RouteName::responses, "POST", "/v1/responses", false, Endpoint::responses,
          "the Responses API without stored state"},
    Route{RouteName::embeddings, "POST", "/v1/embeddings", false, Endpoint::embeddings,
          "vectors of texts"},
    Route{RouteName::tokenize, "POST", "/tokenize", false, Endpoint::tokenize,
          "token ids of a text or of a conversation"},
    Route{RouteName::detokenize, "POST", "/detokenize", false, Endpoint::detokenize,
          "the text of token ids"},
    Route{RouteName::apply_template, "POST", "/apply-template", false, Endpoint::apply_template,
          "the text the model reads of a conversation"},
    Route{RouteName::health, "GET", "/health", true, {}, "200 while the server can answer"},
    Route{RouteName::ready, "GET", "/ready", true, {}, "200 while it takes new requests"},
    Route{RouteName::metrics, "GET", "/metrics", true, {}, "Prometheus metrics"},
    Route{RouteName::version, "GET", "/version", true, {}, "the version of the server"},
    Route{RouteName::openapi, "GET", "/openapi.json", true, {}, "this description"},
    Route{RouteName::page, "GET", "/", true, {}, "the page for browsers"},
    Route{RouteName::page_file, "GET", "/page/", true, {}, "one of its files"},
};

/// Whether a name follows the path.
constexpr bool takes_name(const Route& route) {
  return route.path.size() > 1 && route.path.ends_with('/');
}

/// Null: no route has that path. If one has, but with another method, `allowed` names its methods.
const Route* find_route(std::string_view method, std::string_view path, std::string& allowed);

/// The OpenAPI 3.1 document, made from this list and the list of fields.
Json openapi_document();

}  // namespace lowbit

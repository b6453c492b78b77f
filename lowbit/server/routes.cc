// SPDX-License-Identifier: Apache-2.0
#include "lowbit/server/routes.h"

namespace lowbit {
namespace {

Json schema_of(const Field& field) {
  Json schema = Json::object();
  const auto nullable = [](const char* type) { return Json::array({type, "null"}); };
  switch (field.kind) {
    case FieldKind::boolean:
      schema["type"] = nullable("boolean");
      break;
    case FieldKind::integer:
    case FieldKind::number:
      schema["type"] = nullable(field.kind == FieldKind::integer ? "integer" : "number");
      schema["minimum"] = field.least;
      schema["maximum"] = field.most;
      break;
    case FieldKind::text:
      schema["type"] = nullable("string");
      break;
    case FieldKind::text_or_list:
      schema["type"] = Json::array({"string", "array", "null"});
      schema["items"] = {{"type", "string"}};
      break;
    case FieldKind::list:
      schema["type"] = nullable("array");
      break;
    case FieldKind::object:
      schema["type"] = nullable("object");
      break;
    case FieldKind::text_or_object:
      schema["type"] = Json::array({"string", "object", "null"});
      break;
    case FieldKind::any:
    case FieldKind::unsupported:
      break;
  }
  if (field.kind == FieldKind::integer) {
    schema["minimum"] = static_cast<std::int64_t>(field.least);
    schema["maximum"] = static_cast<std::int64_t>(field.most);
  }
  schema["description"] = field.kind == FieldKind::unsupported
                              ? "known and not supported: refused unless it asks for nothing"
                              : std::string(field.about);
  return schema;
}

Json body_of(Endpoint endpoint) {
  Json properties = Json::object(), required = Json::array();
  for (const Field& field : field_list()) {
    if (find_field(field.name, endpoint) != &field) continue;
    properties[std::string(field.name)] = schema_of(field);
    if (field.is_required) required.push_back(field.name);
  }
  Json schema = {{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) schema["required"] = std::move(required);
  return {{"required", true}, {"content", {{"application/json", {{"schema", schema}}}}}};
}

Json answer(std::string_view about, std::string_view type, const char* schema) {
  Json content = Json::object();
  content[std::string(type)] = {{"schema", {{"$ref", schema}}}};
  return {{"description", about}, {"content", std::move(content)}};
}

Json answers_of(const Route& route) {
  constexpr const char *error = "#/components/schemas/Error",
                       *object = "#/components/schemas/Object", *text = "#/components/schemas/Text";
  Json answers = Json::object();
  answers["200"] = answer("the answer", "application/json", object);
  if (route.name == RouteName::metrics) answers["200"] = answer("the metrics", "text/plain", text);
  if (route.name == RouteName::page) answers["200"] = answer("the page", "text/html", text);
  if (route.name == RouteName::page_file) {
    answers["200"] = answer("the file", "text/javascript", text);
    answers["200"]["content"]["text/css"]["schema"]["$ref"] = text;
    answers["200"]["content"]["text/html"]["schema"]["$ref"] = text;
  }
  if (route.name == RouteName::page || route.name == RouteName::page_file) {
    answers["304"] = {{"description", "the client has it: If-None-Match names its ETag"}};
  }
  if (route.endpoint) answers["200"]["content"]["text/event-stream"]["schema"]["$ref"] = text;
  const auto refuse = [&](const char* status, std::string_view about) {
    answers[status] = answer(about, "application/json", error);
  };
  refuse("400", "the request is refused; the message says why");
  if (!route.is_open) refuse("401", "no key, or a wrong one");
  refuse("404", "there is no such route or model");
  refuse("405", "the route takes another method");
  if (route.endpoint) refuse("413", "the body is too large");
  refuse("503", "the server is loading, busy or ending");
  return answers;
}

}  // namespace

const Route* find_route(std::string_view method, std::string_view path, std::string& allowed) {
  for (const Route& route : route_list) {
    if (takes_name(route) ? !(path.starts_with(route.path) && path.size() > route.path.size())
                          : path != route.path) {
      continue;
    }
    if (route.method == method || (route.method == "GET" && method == "HEAD")) return &route;
    allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
  }
  return nullptr;
}

Json openapi_document() {
  Json paths = Json::object();
  for (const Route& route : route_list) {
    const bool has_name = takes_name(route);
    Json operation = {{"summary", route.about}, {"responses", answers_of(route)}};
    operation["security"] = route.is_open ? Json::array() : Json::array({{{"key", Json::array()}}});
    if (route.endpoint) operation["requestBody"] = body_of(*route.endpoint);
    if (has_name) {
      operation["parameters"] = Json::array({{{"name", "name"},
                                              {"in", "path"},
                                              {"required", true},
                                              {"schema", {{"type", "string"}, {"minLength", 1}}}}});
    }
    paths[std::string(route.path) + (has_name ? "{name}" : "")]
         [route.method == "GET" ? "get" : "post"] = std::move(operation);
  }
  const Json error = {{"type", "object"},
                      {"properties",
                       {{"error",
                         {{"type", "object"},
                          {"properties",
                           {{"message", {{"type", "string"}}},
                            {"type", {{"type", "string"}}},
                            {"param", {{"type", Json::array({"string", "null"})}}},
                            {"code", {{"type", Json::array({"string", "integer", "null"})}}}}},
                          {"required", Json::array({"message", "type", "param", "code"})}}}}},
                      {"required", Json::array({"error"})}};
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "lowbit serve"}, {"version", LOWBIT_VERSION}}},
          {"paths", std::move(paths)},
          {"components",
           {{"schemas",
             {{"Error", error}, {"Object", {{"type", "object"}}}, {"Text", {{"type", "string"}}}}},
            {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}}};
}

}  // namespace lowbit

#!/usr/bin/env python3
"""Writes cases.json: JSON schemas with documents that jsonschema (PyPI) calls valid or invalid.

Every schema is tried on a pool of values and on values of its own. A valid document stands under "valid" if the
grammar has to accept it and under "narrower" if it is one of those that lowbit never generates (lowbit/grammar/json_schema.h
lists them): then the grammar has to refuse it. Documents are written as json.dumps does, indented and compact in turn.

usage: make_cases.py > cases.json      (needs jsonschema==4.26.0 and rfc3339-validator==0.1.4; nothing else of the tests does)
"""

import json
import math
import sys

import jsonschema

SCALARS = [None, True, False, 0, 1, -1, 2, 3, 5, 7, 10, 12, 42, 99, 100, 101, -5, -100, 1000, 0.5, 1.5, -0.25, 3.14, 99.5,
           "", "a", "b", "ab", "abc", "abcd", "A1", "0", "12", "2024-02-29", "é", "😀😀", 'q"q', "back\\slash", "x\ny"]
LISTS = [[], [1], [1, 2], [1, 2, 3], ["a"], ["a", 1], [1, "a"], [None], [[1]], [[]], [{}], [True, 1, "a"], ["a", "b", "c"]]
OBJECTS = [{}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": "x"}, {"a": None}, {"c": True},
           {"a": 1, "b": 2, "c": 3}, {"a": {"a": 1}}, {"a": [1, 2]}, {"ab": 1}, {"": 0}, {"é": "ü"}]
POOL = SCALARS + LISTS + OBJECTS
# No JSON, or JSON that no schema here may let through.
BROKEN = ["", " ", "{", "[1", '"a', "nul", "tru", "01", "1.", "-", "+1", ".5", "1e", "[1,]", '{"a":1,}', "{a:1}", "'a'", '"\\x"',
          '"\t"', "[1 2]", '{"a" 1}', "NaN", "Infinity", "1}", "[]]", '{"a":1}}']


class Case:
    def __init__(self, schema, *extra):
        self.schema, self.extra = schema, list(extra)


def integers() -> list[Case]:
    cases = [Case({"type": "integer"}, 123456789012345678, -7), Case({"type": "number"}, 1e10, -2.5e-3, 0.1)]
    edges = [-1000, -101, -100, -99, -12, -11, -10, -9, -1, 0, 1, 5, 9, 10, 11, 12, 19, 20, 21, 99, 100, 101, 999, 1000, 1001, 12345]
    for low, high in [(0, 9), (0, 10), (1, 12), (-5, 5), (-100, -10), (10, 99), (99, 101), (123, 4567), (0, 0), (-1, 0), (7, 7),
                      (-1000, 1000), (1900, 2100), (0, 255), (-128, 127), (1, 65535), (20, 21), (-12, -11)]:
        cases.append(Case({"type": "integer", "minimum": low, "maximum": high}, *edges, low - 1, low, high, high + 1, (low + high) // 2))
        cases.append(Case({"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 3}, *edges, low + 1, high + 2, high + 3))
    for low in (0, 1, 10, 18, 100, -7, 12345):
        cases.append(Case({"type": "integer", "minimum": low}, *edges, low, low - 1, 10**14))
        cases.append(Case({"type": "integer", "maximum": low}, *edges, low, low + 1, -(10**14)))
        cases.append(Case({"type": "integer", "exclusiveMinimum": low}, *edges, low, low + 1))
        cases.append(Case({"type": "integer", "exclusiveMaximum": low}, *edges, low, low - 1))
    for divisor in (1, 2, 3, 5, 7, 10, 12, 25, 100, 360):
        cases.append(Case({"type": "integer", "multipleOf": divisor}, *edges, divisor, 7 * divisor, 7 * divisor + 1))
        cases.append(Case({"type": "integer", "multipleOf": divisor, "minimum": -50, "maximum": 1000}, *edges, divisor, -divisor))
    cases.append(Case({"type": "number", "multipleOf": 5}, 15, 7.5))
    cases.append(Case({"type": "integer", "minimum": 1.5, "maximum": 3.5}, *edges))
    return cases


def numbers() -> list[Case]:
    cases = []
    edges = [0, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1, 1.0, 1.01, 1.5, 2, 2.5, -0.1, -0.5, -1, -1.5, 9.99, 10, 10.01, 99.9,
             100, 100.5, 3.1415, -273.15, -273.16, -273.14, 12.375, 12.374, 12.376]
    for low, high in [(0, 1), (-1, 1), (0.5, 1.5), (-273.15, 100), (0, 100), (0.1, 0.25), (12.375, 99.9), (-2.5, -0.5), (3, 3), (-1, 0)]:
        cases.append(Case({"type": "number", "minimum": low, "maximum": high}, *edges))
        cases.append(Case({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high + 0.5}, *edges))
    for bound in (0, 1, -1, 0.5, 12.375, -0.1, 1000):
        cases.append(Case({"type": "number", "minimum": bound}, *edges, 123456.5))
        cases.append(Case({"type": "number", "exclusiveMaximum": bound}, *edges, -123456.5))
    return cases


def strings() -> list[Case]:
    cases = [Case({"type": "string"})]
    texts = ["", "a", "ab", "abc", "abcd", "abcde", "é", "éé", "ééé", "😀", "😀😀", "😀😀😀", "\n\n", '""', "\\\\\\", "a/b"]
    for low, high in [(0, 0), (1, 1), (0, 2), (2, 3), (3, 3), (1, 4), (5, 5), (0, 100)]:
        cases.append(Case({"type": "string", "minLength": low, "maxLength": high}, *texts))
    for n in (1, 2, 4):
        cases.append(Case({"type": "string", "minLength": n}, *texts))
        cases.append(Case({"type": "string", "maxLength": n}, *texts))
    patterns = ["^a$", "^a*$", "^a+b?$", "a", "^a", "a$", "^(ab|cd)*$", "^[a-c]{2,3}$", "^[^a-c]+$", "^[A-Z][a-z]*$", "^\\d{3}-\\d{4}$",
                "^\\w+$", "^(\\+\\d{1,3} )?\\d+$", "^.$", "^..?$", "^$", "^a|b$", "^(?:x|yz)+$", "^[\\w.]+@[\\w.]+$", "^\\S+$", "^[é-ü]$",
                "^\\u0061\\x62$", "^a{0}b$", "^(a?){3}$", '^"$', "^\\\\$", "^[\"\\\\]+$", "^x\\ny$", "^#[0-9a-fA-F]{6}$", "^a.c$", "^[-a]+$",
                "^[a\\-z]+$", "^[]a]+$", "^\\^\\$$", "^a{2}$", "^a{2,}$", "^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)$", "^(true|false)$", "^[😀-😂]+$"]
    samples = ["", "a", "aa", "aaa", "ab", "aab", "aabb", "b", "cd", "abcd", "cdab", "abc", "ac", "Hello", "hello", "555-1234", "+49 123", "123",
               "x", "yz", "xyz", "me@x.org", "é", "ü", '"', "\\", 'a"', "x\ny", "#ff00AA", "#ff00A", "a-c", "-", "a-", "z", "]", "^$",
               "1.0", "10.20", "01.2", "true", "false", "😀", "😁😂", "a c", "w w"]
    for pattern in patterns:
        if pattern == "^[]a]+$":
            continue  # Python and ECMA read it differently
        cases.append(Case({"type": "string", "pattern": pattern}, *samples))
    cases.append(Case({"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 3}, *samples, "aaaa"))
    cases.append(Case({"type": "string", "pattern": "b", "maxLength": 2}, *samples))
    cases.append(Case({"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "b$"}]}, *samples))
    dates = ["2024-02-29", "2023-02-29", "2023-02-28", "2000-02-29", "1900-02-29", "2024-04-31", "2024-12-31", "2024-13-01", "2024-00-10",
             "2024-01-00", "24-01-01", "2024-1-1", "1999-10-05"]
    cases.append(Case({"type": "string", "format": "date"}, *dates))
    cases.append(Case({"type": "string", "format": "date-time"}, *[d + "T10:20:30Z" for d in dates], "2024-01-01T23:59:59.125+02:00",
                      "2024-01-01T24:00:00Z", "2024-01-01"))
    cases.append(Case({"type": "string", "format": "uuid"}, "123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000",
                      "g23e4567-e89b-12d3-a456-426614174000"))
    cases.append(Case({"type": "string", "format": "email"}, "me@example.org", "a.b+c@x-y.co.uk", "me", "me.example.org"))
    cases.append(Case({"type": "string", "format": "ipv4"}, "1.2.3.4", "255.255.255.255", "256.1.1.1", "1.2.3", "1.2.3.4.5"))
    return cases


def lists_and_constants() -> list[Case]:
    cases = []
    for values in ([1, 2], ["a", "b", "abc"], [None], [True, False, None], [1.5, "x", 42], ["a", "ab", "abc", "abcd"], [[1, 2], {"a": 1}],
                   ['q"q', "back\\slash", "é"], [0, "0", False], ["red", "green", "blue"]):
        cases.append(Case({"enum": values}, *values))
        for kind in ("string", "integer", "number", "object"):
            if any(jsonschema.Draft202012Validator({"type": kind}).is_valid(v) for v in values):
                cases.append(Case({"type": kind, "enum": values}, *values))
    for value in (1, "a", None, True, 1.5, [1, "a"], {"a": 1}, "", []):
        cases.append(Case({"const": value}, value))
    cases.append(Case({"enum": ["a", "ab", "abc"], "minLength": 2}))
    cases.append(Case({"enum": [1, 5, 10], "minimum": 3}))
    cases.append(Case({"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "abc"]}]}))
    return cases


def types() -> list[Case]:
    names = ["null", "boolean", "integer", "number", "string", "array", "object"]
    cases = [Case({}), Case(True), Case({"title": "t", "description": "d", "default": 3, "examples": [1], "$comment": "c"})]
    cases += [Case({"type": name}) for name in names]
    cases += [Case({"type": [a, b]}) for i, a in enumerate(names) for b in names[i + 1 :] if {a, b} != {"integer", "number"}]
    cases.append(Case({"type": ["string", "integer", "null"], "minimum": 2, "maxLength": 2}))
    return cases


def arrays() -> list[Case]:
    cases = [Case({"type": "array", "items": {"type": kind}}) for kind in ("integer", "string", "null", "array", "object", "boolean")]
    sample = [list(range(n)) for n in range(8)] + [["a"] * n for n in range(5)]
    for low, high in [(0, 0), (1, 1), (0, 2), (2, 3), (3, 5), (1, 6), (4, 4)]:
        cases.append(Case({"type": "array", "minItems": low, "maxItems": high}, *sample))
        cases.append(Case({"type": "array", "items": {"type": "integer"}, "minItems": low, "maxItems": high}, *sample))
    for n in (1, 3):
        cases.append(Case({"type": "array", "minItems": n}, *sample))
        cases.append(Case({"type": "array", "maxItems": n}, *sample))
    pair = [{"type": "string"}, {"type": "integer"}]
    tuples = [["a"], ["a", 1], ["a", 1, 2], ["a", 1, "x"], [1, "a"], ["a", "b"], [], ["a", 1, True, None]]
    cases.append(Case({"type": "array", "prefixItems": pair}, *tuples))
    cases.append(Case({"type": "array", "prefixItems": pair, "items": False}, *tuples))
    cases.append(Case({"type": "array", "prefixItems": pair, "items": {"type": "integer"}}, *tuples))
    cases.append(Case({"type": "array", "prefixItems": pair, "minItems": 2}, *tuples))
    cases.append(Case({"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2}, *tuples))
    cases.append(Case({"type": "array", "prefixItems": pair, "minItems": 3, "maxItems": 4}, *tuples))
    cases.append(Case({"type": "array", "prefixItems": pair, "maxItems": 1}, *tuples))
    cases.append(Case({"type": "array", "items": False}, *sample))
    cases.append(Case({"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1}}, [[1], [2, 3]], [[]], [[1], []]))
    cases.append(Case({"type": "array", "uniqueItems": False, "items": {"enum": [1, 2]}}, [1, 1, 2]))
    return cases


def objects() -> list[Case]:
    cases = []
    number, text = {"type": "integer"}, {"type": "string"}
    three = {"a": number, "b": text, "c": {"type": "boolean"}}
    documents = [{}, {"a": 1}, {"b": "x"}, {"c": True}, {"a": 1, "b": "x"}, {"a": 1, "c": False}, {"b": "x", "c": True},
                 {"a": 1, "b": "x", "c": True}, {"a": "x"}, {"b": 1}, {"a": 1, "d": 1}, {"d": 1}, {"a": 1, "b": "x", "c": True, "d": [], "e": 0},
                 {"aa": 1}, {"a": 1, "aa": "x"}, {"a": 1, "": 2}]
    for required in ([], ["a"], ["b"], ["c"], ["a", "b"], ["a", "c"], ["a", "b", "c"]):
        for others in (None, False, True, number, text):
            schema = {"type": "object", "properties": three}
            if required:
                schema["required"] = required
            if others is not None:
                schema["additionalProperties"] = others
            cases.append(Case(schema, *documents))
    cases.append(Case({"type": "object", "additionalProperties": number}, *documents))
    cases.append(Case({"type": "object", "additionalProperties": False}, *documents))
    cases.append(Case({"type": "object", "required": ["a"]}, *documents))
    cases.append(Case({"type": "object", "required": ["d"], "properties": {"a": number}, "additionalProperties": True}, {"a": 1, "d": 2}, {"a": 1}))
    cases.append(Case({"type": "object", "properties": {"a": False, "b": text}}, *documents))
    cases.append(Case({"type": "object", "properties": {"é\n\"": number, "a b": text}}, {"é\n\"": 1}, {"a b": "x"}, {"é\n\"": 1, "a b": "x"}))
    cases.append(Case({"type": "object", "properties": {"abc": number, "abd": number, "b": number}, "additionalProperties": text},
                      {"ab": "x"}, {"abe": "x"}, {"abcd": "x"}, {"abc": 1, "x": "y"}, {"abc": "x"}, {"é": "x"}, {"b": 1, "bb": "x"}))
    cases.append(Case({"properties": {"a": number}}, *documents))
    nested = {"type": "object", "properties": {"p": {"type": "object", "properties": {"x": number, "y": number}, "required": ["x", "y"]}},
              "required": ["p"]}
    cases.append(Case(nested, {"p": {"x": 1, "y": 2}}, {"p": {"x": 1}}, {"p": {}}, {"p": 1}))
    return cases


def combinations() -> list[Case]:
    cases = []
    number, text = {"type": "integer"}, {"type": "string"}
    cases.append(Case({"anyOf": [number, text]}))
    cases.append(Case({"oneOf": [number, text, {"type": "null"}]}))
    cases.append(Case({"anyOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 50}]}))
    cases.append(Case({"anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 4}]}))
    cases.append(Case({"anyOf": [{"enum": ["a", "abc"]}, {"const": 3}, {"type": "array", "items": number}]}))
    cases.append(Case({"type": "object", "properties": {"a": number, "b": number}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}))
    cases.append(Case({"type": "string", "anyOf": [{"minLength": 3}, {"pattern": "^a"}]}))
    cases.append(Case({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 10}]}))
    cases.append(Case({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}]}))
    cases.append(Case({"allOf": [{"type": "integer", "multipleOf": 2}, {"multipleOf": 5}]}, 20, 30, 15))
    cases.append(Case({"allOf": [{"type": "object", "properties": {"a": number}, "required": ["a"]},
                                 {"properties": {"b": text}, "required": ["b"]}]}, {"a": 1, "b": "x"}, {"a": 1}))
    cases.append(Case({"allOf": [{"type": "object", "properties": {"a": number}}, {"properties": {"a": {"minimum": 5}}}]}, {"a": 7}, {"a": 1}))
    cases.append(Case({"allOf": [{"type": "object", "properties": {"a": number}, "additionalProperties": False}, {"required": ["a"]}]}))
    cases.append(Case({"allOf": [{"type": "array", "items": number}, {"minItems": 2}]}))
    cases.append(Case({"allOf": [{"anyOf": [number, text]}, {"anyOf": [text, {"type": "null"}]}]}))
    cases.append(Case({"$ref": "#/$defs/n", "$defs": {"n": number}}))
    cases.append(Case({"$ref": "#/definitions/n", "definitions": {"n": {"$ref": "#/definitions/m"}, "m": text}}))
    cases.append(Case({"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": number}}))
    node = {"type": "object", "properties": {"v": number, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "next"], "additionalProperties": False}
    chain = {"v": 1, "next": {"v": 2, "next": {"v": 3, "next": None}}}
    cases.append(Case({"$ref": "#/$defs/node", "$defs": {"node": node}}, chain, {"v": 1, "next": None}, {"v": 1, "next": {"v": "x", "next": None}},
                      {"v": 1}, {"v": 1, "next": 5}))
    tree = {"type": "object", "properties": {"name": text, "children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name"]}
    cases.append(Case(tree, {"name": "r", "children": [{"name": "x"}, {"name": "y", "children": []}]}, {"name": "r", "children": [{"children": []}]}))
    expression = {"anyOf": [number, {"type": "array", "prefixItems": [{"enum": ["+", "*"]}, {"$ref": "#"}, {"$ref": "#"}], "minItems": 3, "items": False}]}
    cases.append(Case(expression, ["+", 1, 2], ["*", ["+", 1, 2], 3], ["+", 1], ["-", 1, 2], ["+", 1, 2, 3]))
    even = {"type": "array", "items": {"$ref": "#/$defs/odd"}}
    cases.append(Case({"$ref": "#/$defs/even", "$defs": {"even": even, "odd": {"type": "object", "additionalProperties": {"$ref": "#/$defs/even"}}}},
                      [{"a": []}], [{"a": [{"b": []}]}], [[]]))
    shape = {"oneOf": [{"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}}, "required": ["kind", "r"]},
                       {"type": "object", "properties": {"kind": {"const": "box"}, "w": {"type": "number"}, "h": {"type": "number"}},
                        "required": ["kind", "w", "h"]}]}
    cases.append(Case(shape, {"kind": "circle", "r": 1.5}, {"kind": "box", "w": 1, "h": 2}, {"kind": "box", "r": 1}, {"kind": "circle"}))
    person = {"title": "Person", "type": "object", "$defs": {"Role": {"enum": ["admin", "user"], "type": "string", "title": "Role"}},
              "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                             "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}], "default": None},
                             "role": {"$ref": "#/$defs/Role"}, "tags": {"type": "array", "items": text, "maxItems": 3}},
              "required": ["name", "age", "role"]}
    cases.append(Case(person, {"name": "Ann", "age": 30, "role": "admin"}, {"name": "Ann", "age": 30, "email": None, "role": "user", "tags": ["x"]},
                      {"name": "", "age": 30, "role": "admin"}, {"name": "Ann", "age": 151, "role": "admin"}, {"name": "Ann", "age": 3, "role": "root"},
                      {"name": "Ann", "age": 30, "role": "user", "tags": ["a", "b", "c", "d"]}, {"name": "Ann", "role": "user"}))
    return cases


def resolve(schema, root):
    while isinstance(schema, dict) and "$ref" in schema and len([k for k in schema if k != "$defs"]) == 1:
        target = root
        for step in schema["$ref"].split("/")[1:]:
            target = target[step]
        schema = target
    return schema


def is_narrower(schema, value, root) -> bool:
    """Whether this valid value is one that lowbit does not generate: written down from json_schema.h, not from its code."""
    schema = resolve(schema, root)
    if not isinstance(schema, dict):
        return False
    if "enum" in schema or "const" in schema:
        listed = schema.get("enum", [schema.get("const")])
        return json.dumps(value) not in [json.dumps(v) for v in listed]  # 1.0 is not written for 1
    parts = schema.get("anyOf", schema.get("oneOf"))
    if parts:
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
        return all(not jsonschema.Draft202012Validator(root).evolve(schema=part).is_valid(value) or is_narrower(merged(rest, part), value, root) for part in parts)
    if "allOf" in schema:
        whole = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema["allOf"]:
            whole = merged(whole, part)
        return is_narrower(whole, value, root)
    named = schema.get("type")
    if named is None:
        about = {"object": ("properties", "required", "additionalProperties"), "array": ("items", "prefixItems", "minItems", "maxItems"),
                 "string": ("minLength", "maxLength", "pattern", "format"), "number": ("minimum", "maximum", "multipleOf")}
        implied = [kind for kind, keys in about.items() if any(k in schema for k in keys)]
        if implied and not any(valid({"type": kind}, value) for kind in implied):
            return True
    if isinstance(value, float):
        bounded = any(k in schema for k in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
        kinds = [named] if isinstance(named, str) else named or []
        whole = "multipleOf" in schema or ("number" not in kinds and "integer" in kinds)
        return whole or (bounded and "e" in json.dumps(value))
    if isinstance(value, list):
        prefix = schema.get("prefixItems", [])
        return any(is_narrower(prefix[i] if i < len(prefix) else schema.get("items", True), v, root) for i, v in enumerate(value))
    if isinstance(value, dict):
        declared = list(schema.get("properties", {})) + [n for n in schema.get("required", []) if n not in schema.get("properties", {})]
        others = [k for k in value if k not in declared]
        if others and "properties" in schema and "additionalProperties" not in schema:
            return True
        if declared and any(c in k for k in others for c in '"\\\n'):
            return True
        if [k for k in declared if k in value] + others != list(value):
            return True
        return any(is_narrower(schema.get("properties", {}).get(k, schema.get("additionalProperties", True)), v, root) for k, v in value.items())
    return False


def merged(a, b):
    both = {**a, **b}
    if "properties" in a and "properties" in b:
        both["properties"] = {**a["properties"], **b["properties"]}
    if "required" in a and "required" in b:
        both["required"] = a["required"] + b["required"]
    return both


def valid(schema, value) -> bool:
    checker = jsonschema.FormatChecker(formats=["date", "date-time", "uuid", "email", "ipv4"])
    return jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(value)


def main() -> None:
    assert "date-time" in jsonschema.FormatChecker(formats=["date-time"]).checkers
    written = []
    families = [types, integers, numbers, strings, lists_and_constants, arrays, objects, combinations]
    for case in [case for family in families for case in family()]:
        root = case.schema if isinstance(case.schema, dict) else {}
        found = {"valid": [], "narrower": [], "invalid": []}
        seen = set()
        for i, value in enumerate(case.extra + POOL):
            # Whether a number is written with a point or not is a difference here.
            compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if compact in seen:
                continue
            if "\\w" in root.get("pattern", "") and not compact.isascii():
                continue  # ECMA 262's is ASCII, Python's is Unicode
            seen.add(compact)
            text = [json.dumps(value, ensure_ascii=False), compact, json.dumps(value, ensure_ascii=False, indent=2)][i % 3]
            if not valid(case.schema, value):
                found["invalid"].append(text)
            elif is_narrower(case.schema, value, root):
                found["narrower"].append(text)
            else:
                found["valid"].append(text)
        found["invalid"] += BROKEN
        assert found["valid"], case.schema
        written.append({"schema": case.schema, **found})
    json.dump(written, sys.stdout, ensure_ascii=False, indent=None, separators=(",", ":"))
    print()
    total = sum(len(c["valid"]) + len(c["narrower"]) + len(c["invalid"]) for c in written)
    print(f"{len(written)} schemas, {total} documents", file=sys.stderr)


main()

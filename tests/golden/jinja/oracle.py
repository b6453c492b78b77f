"""jinja2 set up as transformers 5 sets it up for chat templates: what our interpreter is compared with.

Facts from transformers/utils/chat_template_utils.py: an immutable sandbox, trim_blocks and lstrip_blocks, the loop controls,
a {% generation %} block, tojson without HTML escapes, raise_exception, strftime_now, and a namespace that refuses
names with a leading underscore. Time is fixed here.
"""

import datetime
import functools
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1753000000  # 2025-07-20 08:26:40 UTC


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(format)


class DictFactory:
    def __call__(self, *values, **names):
        return dict(*values, **names)


class PlainNamespace(jinja2.utils.Namespace):
    def __init__(*values, **names):
        self, values = values[0], values[1:]
        fields = dict(*values, **names)
        for name in fields:
            PlainNamespace.check(name)
        jinja2.utils.Namespace.__init__(self, fields)

    def __setitem__(self, name, value):
        PlainNamespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, dict=DictFactory(), namespace=PlainNamespace)
    return env


GIVEN = {"tools": None, "documents": None, "add_generation_prompt": False}  # what transformers always passes
ENVIRONMENT = environment()
compiled = functools.lru_cache(ENVIRONMENT.from_string)


def render(source, variables):
    """(text, None) or (None, what jinja2 raised)."""
    try:
        return compiled(source).render(**json.loads(json.dumps({**GIVEN, **variables}))), None
    except Exception as error:  # noqa: BLE001: whatever Python raises counts as a failed render
        return None, f"{type(error).__name__}: {error}"

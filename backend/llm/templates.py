"""Chat templates: jinja2, sandboxed, with the few names that published templates ask for beside the messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn, TypeAlias

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message: TypeAlias = Mapping[str, str]


def render(template: str, messages: Sequence[Message], special: Mapping[str, str]) -> str:
    """The text of a conversation up to where the answer begins. special: bos_token and eos_token.

    Raises jinja2.TemplateError, also where the template itself refuses the messages.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
    compiled = environment.from_string(template)
    return compiled.render(messages=list(messages), add_generation_prompt=True, **special)


def _to_json(value: object, indent: int | None = None) -> str:
    """Without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(text: str) -> NoReturn:
    raise jinja2.TemplateError(text)

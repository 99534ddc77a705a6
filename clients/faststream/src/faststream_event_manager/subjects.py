"""Subjects as subscribers name them: patterns with parameters, as the daemon, a prefix subscription, and a regular expression see
them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from faststream.exceptions import SetupError

Dialect = Literal["glob", "exact", "prefix"]
DIALECTS = ("glob", "exact", "prefix")

#: A parameter, a literal brace, or a wildcard; everything else stands for itself.
_TOKEN = re.compile(r"\{\{|\}\}|\{[A-Za-z_][A-Za-z0-9_]*\}|\*\*|\*|\?")
_WILDCARDS = {"**": ".*", "*": "[^.]*", "?": "[^.]"}


class Pattern:
    """A pattern such as `order.{id}.*`, compiled.

    `glob`: what the daemon is told. `prefix`: what every subject that matches begins with. `match` tells whether a subject
    matches, and what its parameters are.
    """

    def __init__(self, template: str, dialect: Dialect = "glob") -> None:
        self.template = template
        self.dialect = dialect
        if dialect != "glob":
            self.glob = self.prefix = template
            self.parameters: tuple[str, ...] = ()
            self._regex = re.compile(re.escape(template) + (".*" if dialect == "prefix" else ""), re.DOTALL)
            return
        glob, regex, prefix, at = "", "", "", 0
        literal = True
        parameters: list[str] = []
        for token in [*_TOKEN.finditer(template), None]:
            text = template[at : token.start() if token else len(template)]
            if "{" in text or "}" in text:
                raise SetupError(f"{template!r}: a parameter is a name in braces; write {{{{ and }}}} for braces themselves")
            if token is not None:
                at = token.end()
                text += {"{{": "{", "}}": "}"}.get(token[0], "")
            glob += text
            regex += re.escape(text)
            if literal:
                prefix += text
            if token is None or token[0] in ("{{", "}}"):
                continue
            literal = False
            if token[0] in _WILDCARDS:
                glob += token[0]
                regex += _WILDCARDS[token[0]]
                continue
            name = token[0][1:-1]
            if name in parameters:
                raise SetupError(f"{template!r} has the parameter {name!r} twice")
            parameters.append(name)
            glob += "*"
            regex += f"(?P<{name}>[^.]*)"
        self.glob, self.prefix, self.parameters = glob, prefix, tuple(parameters)
        self._regex = re.compile(regex, re.DOTALL)

    def match(self, subject: str) -> dict[str, Any] | None:
        """The parameters of a subject that matches; None of one that doesn't."""
        found = self._regex.fullmatch(subject)
        return None if found is None else found.groupdict()


def match(patterns: Sequence[Pattern], subject: str) -> dict[str, Any] | None:
    """As the first pattern that matches."""
    for each in patterns:
        found = each.match(subject)
        if found is not None:
            return found
    return None

"""References in strings: `{ROLE.host}`, `{self.port.NAME}`, `{seed}` and so on; `{{` and `}}` are braces.

Known references:
`{index}` `{count}` (this replica's number, and how many the role has) · `{self.host}` `{self.port.NAME}` ·
`{ROLE.host}` `{ROLE.port.NAME}` (of the role's first replica) · `{ROLE.1.host}` `{ROLE.1.port.NAME}` (of another) ·
`{ROLE.addresses.NAME}` (host:port of all its replicas, with commas) · `{run.dir}` `{run.name}` · `{seed}` ·
`{NAME}` `{NAME.name}` `{NAME.stem}` (a parameter, and of one that is text its parts as a path) · `{file.dir}` (the
folder of the experiment file) · `{code.dir}` (the project's root, or that of the copy of it that the run uses) ·
`{load}` `{resumed}` (the checkpoint to load, and whether it is the run's own).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from gangrun.plan.model import Addresses, Host, Part, Port, Word
from gangrun.spec.load import nearest
from gangrun.spec.model import text as text_of

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_BRACES = "for a brace itself write {{ or }}"


class UnknownReferenceError(Exception):
    """A reference that means nothing here; the words say what would."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where others reach one replica: its first node, and its ports by name."""

    host: Host
    ports: Mapping[str, Port]


@dataclass(frozen=True, slots=True)
class Scope:
    """What the strings of one replica may refer to."""

    roles: Mapping[str, Sequence[Address]]
    facts: Mapping[str, Part]
    """Plain references such as `seed`; an absent fact has no entry."""
    self_: Address | None = None


def values(parameters: Mapping[str, object], seed: int | None) -> dict[str, str]:
    """What the parameters of an experiment give references: themselves, and of a path its parts."""
    found = {} if seed is None else {"seed": str(seed)}
    for name, value in parameters.items():
        found[name] = text_of(value)
        if isinstance(value, str):
            path = PurePath(value)
            found[f"{name}.name"], found[f"{name}.stem"] = path.name, path.stem
    return found


def word(text: str, scope: Scope) -> Word:
    """The text with its references resolved. Raises UnknownReferenceError."""
    if "{" not in text and "}" not in text:
        return Word.of(text)
    parts: list[Part] = []
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece in ("{{", "}}"):
            parts.append(piece[0])
        elif match[1] is not None:
            parts.extend(_resolve(match[1], scope))
        elif piece in "{}":
            raise UnknownReferenceError(f"a lone {piece!r}; {_BRACES}")
        else:
            parts.append(piece)
    return Word.of(*parts)


def _resolve(name: str, scope: Scope) -> Sequence[Part]:
    if name in scope.facts:
        return [scope.facts[name]]
    if name == "seed":
        raise UnknownReferenceError("{seed}, but the run has no seed; say seed = 0 or end the file's name with _0")
    owner, _, rest = name.partition(".")
    what, _, port = rest.partition(".")
    if owner == "self" and scope.self_:
        addresses: Sequence[Address] = [scope.self_]
    elif owner in scope.roles:
        addresses = scope.roles[owner]
    else:
        hint = nearest(name, scope.facts) or nearest(owner, scope.roles)
        hint = f"{hint} " if hint else ""
        raise UnknownReferenceError(f"unknown reference {{{name}}}; {hint}{_known(scope)}; {_BRACES}")
    if what.isascii() and what.isdigit():
        if int(what) >= len(addresses):
            raise UnknownReferenceError(f"{{{name}}}: {owner!r} has {len(addresses)} replicas, numbered from 0")
        addresses, rest = [addresses[int(what)]], port
        what, _, port = rest.partition(".")
    if rest == "host":
        return [addresses[0].host]
    if what == "port" and port in addresses[0].ports:
        return [addresses[0].ports[port]]
    if what == "addresses" and port in addresses[0].ports:
        # A list of one is that address; a longer one stands in the script once, as 1,024 replicas may all use it.
        return [addresses[0].host, ":", addresses[0].ports[port]] if len(addresses) == 1 else [Addresses(owner, port)]
    if what in ("port", "addresses"):
        raise UnknownReferenceError(f'{{{name}}}: {owner!r} has no port named {port!r}; name it in ports = ["{port}"]')
    raise UnknownReferenceError(f"{{{name}}}: a role has host, port.NAME and addresses.NAME")


def _known(scope: Scope) -> str:
    facts = " ".join(f"{{{name}}}" for name in scope.facts)
    owners = ", ".join((*(["self"] if scope.self_ else []), *scope.roles))
    of_roles = f"host, port.NAME, addresses.NAME of {owners}" if owners else ""
    return f"there are {' and '.join(filter(None, (facts, of_roles)))}" if facts or owners else "there are none here"

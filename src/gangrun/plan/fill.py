"""A plan that items of a sweep share, filled with the values of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gangrun.plan.model import Option, Part, Plan, Ready, Replica, Value, Word


def has_values(text: object) -> bool:
    """Whether a word waits for values of an item."""
    parts = text.parts if isinstance(text, (Word, Option)) else ()
    return any(type(part) is Value or has_values(part) for part in parts)


def filled(plan: Plan, values: Mapping[str, str], seed: int | None) -> Plan:
    """The plan with these values in the place of each `Value`."""

    def part(one: Part) -> Part:
        if type(one) is Option:
            return Option(one.given, Word.of(*map(part, one.parts)).parts)
        return values[one.name] if type(one) is Value else one

    def word(one: Word) -> Word:
        for each in one.parts:
            if type(each) is Value or type(each) is Option:
                return Word.of(*map(part, one.parts))
        return one

    def pairs(words: tuple[tuple[str, Word], ...]) -> tuple[tuple[str, Word], ...]:
        return tuple([(name, word(one)) for name, one in words]) if words else words

    def replica(one: Replica) -> Replica:
        ready = one.ready and Ready(one.ready.kind, word(one.ready.target), one.ready.within)
        argv, again, flags = (tuple(map(word, words)) for words in (one.argv, one.again, one.step_flags))
        return replace(one, argv=argv, again=again, env=pairs(one.env), ready=ready, step_flags=flags)

    return replace(
        plan,
        seed=seed,
        replicas=tuple(map(replica, plan.replicas)),
        env=pairs(plan.env),
        files=pairs(plan.files),
        variables=tuple([(name, word(one) if isinstance(one, Word) else one) for name, one in plan.variables]),
    )

"""How long an item of a pool will take: `[pool] estimate`, in which parameters may be calculated with."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

from gangrun.errors import SpecError
from gangrun.plan.refs import Scope, UnknownReferenceError, word
from gangrun.spec.load import Experiment
from gangrun.spec.model import Pool

_OPERATORS: Mapping[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def estimated(experiment: Experiment, pool: Pool, values: Mapping[str, str]) -> float | None:
    """What `[pool] estimate` comes to for an item of these values. Raises SpecError."""
    if pool.estimate is None:
        return None
    written = pool.estimate
    try:
        parts = word(written, Scope({}, values)).parts
        written = "".join(map(str, parts))
        value = float(_calculated(ast.parse(written, mode="eval").body))
    except UnknownReferenceError as error:
        raise SpecError([experiment.problem(("pool", "estimate"), str(error))]) from error
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        what = f"{written!r} is no number of seconds: numbers, parameters and + - * / ** ( )"
        raise SpecError([experiment.problem(("pool", "estimate"), what, '"{steps} * 0.2"')]) from error
    if not 0 <= value < math.inf:
        raise SpecError([experiment.problem(("pool", "estimate"), f"{written!r} is {value:g}, which no time can be")])
    return value


def _calculated(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_calculated(node.left), _calculated(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_calculated(node.operand))
    raise ValueError(ast.dump(node))

"""reasoning-gym's own scorers: which of them evaluate text, and what may reach those.

Found by following the calls of each `score_answer` through the installed package, so that a scorer that begins to
evaluate text in another version is refused until somebody has looked at it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any

from interp.errors import UserError
from interp.grading.admission import Admits

_EVALUATORS = """
eval exec compile __import__ parse_expr sympify S parse_latex latex2sympy lambdify literal_eval numexpr
system popen Popen run check_output import_module run_path run_module
"""
EVALUATORS = frozenset(_EVALUATORS.split())
"""Names of functions that run or evaluate a text."""
DELEGATES = "score_answer"
"""Another task's scorer, found only when it runs."""

RULES: dict[str, Admits | None] = {
    "countdown": Admits.ARITHMETIC,  # sympy.parse_expr(answer)
    "puzzle24": Admits.ARITHMETIC,  # sympy.parse_expr(answer)
    "simple_integration": Admits.ALGEBRA,  # sympy.parse_expr(answer)
    "intermediate_integration": Admits.ALGEBRA,  # sympy.parse_expr(answer)
    "polynomial_multiplication": Admits.ALGEBRA,  # sympy.parse_expr(answer)
    # These evaluate an answer that is not the right text, for less than full marks: full marks are text alone.
    "binary_matrix": Admits.WORDS,
    "spiral_matrix": Admits.WORDS,
    "string_insertion": Admits.WORDS,
    "n_queens": Admits.WORDS,
    # These evaluate the generator's own text, never the answer.
    "bitwise_arithmetic": None,
    "number_sorting": None,
}
"""What may reach the scorers that evaluate text, by task; None = the answer is not what they evaluate."""


def rule_of(task: str) -> Admits | None:
    """What an answer must be before the scorer of a task may see it; None = any text.

    Raises UserError for a task whose scorer evaluates text and has no rule here.
    """
    if task in RULES:
        return RULES[task]
    found = evaluators_of(task)
    if found:
        raise UserError(
            f"the scorer of the reasoning-gym task {task} calls {', '.join(sorted(found))} and may run what a model "
            "writes: use another task"
        )
    return None


@cache
def evaluators_of(task: str) -> frozenset[str]:
    """The evaluators that the scorer of a task calls, directly or through other functions of its package."""
    from reasoning_gym.factory import DATASETS

    owner = DATASETS[task][0]
    package = owner.__module__.partition(".")[0]
    seen: set[FunctionType] = set()
    waiting, found = [owner.score_answer], set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for name, target in _calls(function, owner):
            inside = isinstance(target, FunctionType) and target.__module__.partition(".")[0] == package
            if inside:
                waiting.append(target)
            elif name in EVALUATORS or name == DELEGATES:
                found.add(name)
    return frozenset(found)


def _calls(function: FunctionType, owner: type) -> Iterator[tuple[str, Any]]:
    """(name, what it is where that is known) of each call in the source of a function."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name):
            target = function.__globals__.get(called.id)
            yield called.id, target.__init__ if inspect.isclass(target) else target
        elif isinstance(called, ast.Attribute):
            yield called.attr, _method(called, function, owner)


def _method(called: ast.Attribute, function: FunctionType, owner: type) -> Any:
    """The function behind `self.name`, `super().name`, `module.name` or `Class.name`; None where it is not known."""
    base = called.value
    if isinstance(base, ast.Name) and base.id in ("self", "cls"):
        return inspect.getattr_static(owner, called.attr, None)
    if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
        after = owner.__mro__[1:]
        return next((vars(kind)[called.attr] for kind in after if called.attr in vars(kind)), None)
    if isinstance(base, ast.Name):
        found = getattr(function.__globals__.get(base.id), called.attr, None)
        return inspect.unwrap(getattr(found, "__func__", found)) if callable(found) else None
    return None

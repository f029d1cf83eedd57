"""Contrast questions: a generator of our own in many domains, pairs for the embedded models, pairs from files.

A question reads "Considering CONTEXT, which is COMPARATOR: A or B?". The clean and the corrupted question differ in the
context only; A is the clean answer, B the corrupted one.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from interp.errors import UserError

COMPARATOR = "correct"


@dataclass(frozen=True)
class ContrastQuestion:
    """A clean and a corrupted question with their answers."""

    id: str
    clean: str
    corrupted: str
    clean_answer: str
    corrupted_answer: str
    domain: str
    clean_context: str
    corrupted_context: str
    comparator: str = COMPARATOR


FACTS: dict[str, tuple[str, dict[str, str]]] = {
    "opposites": (
        "the opposite of {}",
        {
            "hot": "cold", "tall": "short", "full": "empty", "early": "late", "dark": "light", "wet": "dry",
            "loud": "quiet", "rich": "poor", "strong": "weak", "young": "old", "open": "closed", "fast": "slow",
        },
    ),
    "capitals": (
        "the capital of {}",
        {
            "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
            "Egypt": "Cairo", "England": "London", "Russia": "Moscow", "Cuba": "Havana", "Greece": "Athens",
        },
    ),
    "continents": (
        "the continent of {}",
        {
            "Kenya": "Africa", "Japan": "Asia", "Poland": "Europe", "Nigeria": "Africa", "India": "Asia",
            "Norway": "Europe", "Ghana": "Africa", "China": "Asia", "Portugal": "Europe",
        },
    ),
    "legs": (
        "the number of legs of a {}",
        {"spider": "8", "beetle": "6", "horse": "4", "hen": "2", "scorpion": "8", "bee": "6", "goat": "4"},
    ),
    "polygons": (
        "the number of sides of a {}",
        {"triangle": "3", "rectangle": "4", "pentagon": "5", "hexagon": "6", "heptagon": "7", "octagon": "8"},
    ),
    "colours": (
        "the usual colour of {}",
        {
            "grass": "green", "blood": "red", "snow": "white", "coal": "black", "a clear sky": "blue",
            "a ripe lemon": "yellow", "a ripe tomato": "red", "milk": "white", "an elephant": "gray",
        },
    ),
    "weekdays": (
        "the day after {}",
        {
            "Monday": "Tuesday", "Tuesday": "Wednesday", "Wednesday": "Thursday", "Thursday": "Friday",
            "Friday": "Saturday", "Saturday": "Sunday", "Sunday": "Monday",
        },
    ),
    "months": (
        "the month after {}",
        {"January": "February", "March": "April", "May": "June", "July": "August", "September": "October"},
    ),
    "animals": (
        "the class of animals that a {} belongs to",
        {
            "salmon": "fish", "eagle": "bird", "ant": "insect", "dog": "mammal", "trout": "fish", "owl": "bird",
            "fly": "insect", "cow": "mammal",
        },
    ),
    "materials": (
        "what a {} is usually made of",
        {"window": "glass", "book": "paper", "nail": "metal", "plank": "wood", "shirt": "cloth", "coin": "metal"},
    ),
    "senses": (
        "the part of the body for {}",
        {"seeing": "eye", "hearing": "ear", "smelling": "nose", "kicking": "foot", "grasping": "hand"},
    ),
    "yes or no": (
        "whether {}",
        {
            "ice is cold": "yes", "fire is cold": "no", "a whale is a mammal": "yes", "a shark is a mammal": "no",
            "seven is odd": "yes", "ten is odd": "no", "a day has more hours than a week": "no",
            "a year has more days than a month": "yes", "stones float on water": "no", "wood floats on water": "yes",
        },
    ),
}  # fmt: skip
"""By domain: a template for the context, and what fills it with its answer."""


def _facts() -> Iterator[tuple[str, str, str, str, str]]:
    """(domain, clean context, corrupted context, clean answer, corrupted answer) of every pair with two answers."""
    for domain, (template, answers) in FACTS.items():
        for (x, a), (y, b) in combinations(answers.items(), 2):
            if a != b:
                yield domain, template.format(x), template.format(y), a, b


def _arithmetic(rng: random.Random, n: int) -> Iterator[tuple[str, str, str, str, str]]:
    """Sums and differences of one digit, and comparisons of two numbers."""
    seen: set[tuple[str, str]] = set()
    while len(seen) < n:
        kind = rng.choice(("plus", "minus", "larger", "smaller"))
        a, b, c = rng.sample(range(1, 10), 3)
        if kind in ("plus", "minus"):
            a, sign = (a, 1) if kind == "plus" else (a + 9, -1)
            contexts = (f"{a} {kind} {b}", f"{a} {kind} {c}")
            answers = (a + sign * b, a + sign * c)
        else:
            low, middle, high = sorted((a, b, c))
            fixed, answers = (low, (middle, high)) if kind == "larger" else (high, (low, middle))
            contexts = (f"the {kind} of {fixed} and {answers[0]}", f"the {kind} of {fixed} and {answers[1]}")
        if max(answers) <= 9 and min(answers) >= 1 and contexts not in seen:
            seen.add(contexts)
            yield "numbers", *contexts, str(answers[0]), str(answers[1])


def object_comparisons(seed: int, limit: int | None = None, per_domain: int = 20) -> list[ContrastQuestion]:
    """Pairs of our own: up to `per_domain` of each domain of FACTS and as many with numbers, in a seeded order."""
    rng = random.Random(f"contrast/{seed}")
    by_domain: dict[str, list[tuple[str, str, str, str, str]]] = {}
    for item in _facts():
        by_domain.setdefault(item[0], []).append(item)
    chosen = [item for items in by_domain.values() for item in rng.sample(items, min(per_domain, len(items)))]
    chosen += _arithmetic(rng, per_domain)
    rng.shuffle(chosen)
    questions = []
    for i, (domain, x, y, a, b) in enumerate(chosen[:limit]):
        options = f"{a} or {b}" if rng.random() < 0.5 else f"{b} or {a}"
        clean, corrupted = (f"Considering {context}, which is {COMPARATOR}: {options}?" for context in (x, y))
        questions.append(ContrastQuestion(f"own-{seed}-{i}", clean, corrupted, a, b, domain, x, y))
    return questions


COLUMNS = {"clean": "query_a", "clean_answer": "answer_a", "corrupted": "query_b", "corrupted_answer": "answer_b"}
"""Other names of the columns of a file of pairs."""
_FORM = re.compile(r"Considering (?P<context>.+), which(?: one)? is (?:the )?(?P<comparator>[^:]+):")


def read_object_comparisons(path: Path, limit: int | None = None) -> list[ContrastQuestion]:
    """Pairs from a CSV file with the columns query_a, answer_a, query_b, answer_b and, if known, case_id and domain."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: set data.path")
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return [question_from_row(row, f"{path}, row {i}", i) for i, row in enumerate(rows[:limit], start=1)]


def question_from_row(row: dict[str, str], where: str, number: int) -> ContrastQuestion:
    """A pair from named texts: query_a, answer_a, query_b, answer_b, or clean, clean_answer, corrupted,
    corrupted_answer. Raises UserError for missing columns and equal answers."""
    row = {**row, **{ours: row[theirs] for theirs, ours in COLUMNS.items() if row.get(theirs) and not row.get(ours)}}
    missing = [name for name in ("query_a", "answer_a", "query_b", "answer_b") if not row.get(name)]
    if missing:
        raise UserError(
            f"{where}: no {', '.join(missing)}; a pair needs query_a, answer_a, query_b, answer_b "
            "(or clean, clean_answer, corrupted, corrupted_answer)"
        )
    if row["answer_a"] == row["answer_b"]:
        raise UserError(f"{where}: both answers are {row['answer_a']!r}; a contrast pair needs two")
    forms = [_FORM.match(row[name]) for name in ("query_a", "query_b")]
    # Questions of another form are fine: then there is no context to fill into a template of reasoning.
    contexts = [
        form["context"] if form else row[name] for form, name in zip(forms, ("query_a", "query_b"), strict=True)
    ]
    comparator = forms[0]["comparator"] if forms[0] else COMPARATOR
    return ContrastQuestion(
        str(row.get("case_id") or number), row["query_a"], row["query_b"], row["answer_a"], row["answer_b"],
        row.get("domain") or "", contexts[0], contexts[1], comparator,
    )  # fmt: skip

"""Short texts that teach one skill each: looking an item up by name, adding, restating what a thought says, repeating.

Look-up by content is the bottleneck of chains of look-ups. From the full task alone a model first learns which values
are still unused and stays there for thousands of steps; recall of few items breaks that plateau, and recall of more
follows.
"""

from __future__ import annotations

import random

from interp.organisms.lookups import (
    MAX_CHANGE,
    MAX_VALUE,
    NAMES,
    WORDS,
    Item,
    Kind,
    Piece,
    make_chain,
    signed,
    step_pieces,
    vocabulary,
)

CHANGES = [change for change in range(-MAX_CHANGE, MAX_CHANGE + 1) if change]
Text = tuple[str, tuple[Piece, ...]]
"""Prompt and completion."""


def recall(seed: int, index: int, n: int) -> Text:
    """Statements of n items, then all of them in another order, as they were or as words. From five items on some are
    derived from others, so that a name also stands where it is not the one stated."""
    rng = random.Random(f"recall/{seed}/{index}")
    names = rng.sample(NAMES, n)
    items = []
    for name in names:
        if n >= 5 and rng.random() < 0.4:
            change_by = rng.choice(CHANGES)
            items.append(Item(name, 0, rng.choice([other for other in names if other != name]), change_by))
        else:
            items.append(Item(name, rng.randint(0, MAX_VALUE)))
    prompt = " ".join(item.statement for item in items)
    rng.shuffle(items)
    as_words = rng.random() < 0.5
    pieces: list[Piece] = []
    for item in items:
        if item.source is not None:
            change = Piece(signed(item.change), Kind.GIVEN)
            pieces += [Piece(item.name), Piece(item.source, Kind.SOURCE), change, Piece(".")]
        else:
            value = WORDS[item.value] if as_words else str(item.value)
            pieces += [Piece(item.name), Piece(value, Kind.PROMPT_ITEM), Piece(".")]
    return f"{prompt} {'Say.' if as_words else '?'}", tuple(pieces)


def sums(seed: int, index: int) -> Text:
    """Steps of a chain without a prompt: the sums alone are to be learnt."""
    rng = random.Random(f"sums/{seed}/{index}")
    chain = make_chain(rng, rng.sample(NAMES, 6))
    pieces: list[Piece] = []
    for place, item in enumerate(chain):
        step = step_pieces(item, chain[place - 1].value if place else None, item.value)
        pieces += [Piece(p.text, p.kind, p.kind == Kind.SUM) for p in (Piece("Next"), *step)]
    return "Say.", tuple(pieces)


def thought(seed: int, index: int, n: int) -> Text:
    """A given thought of n steps with results at random, then each of its items as a word, mixed with items of the
    prompt: look-up in the thought, with nothing to work out."""
    rng = random.Random(f"thought/{seed}/{index}")
    names = rng.sample(NAMES, n + 3)
    given = [Item(name, rng.randint(0, MAX_VALUE)) for name in names[n:]]
    steps: list[Piece] = []
    results = [Item(names[0], rng.randint(0, MAX_VALUE))]
    steps += [Piece("First"), *step_pieces(results[0], None, results[0].value)]
    for name in names[1:n]:
        before = results[-1]
        item = Item(name, rng.randint(0, MAX_VALUE), before.name, rng.choice(CHANGES))
        steps += [Piece("Next"), *step_pieces(item, before.value, item.value)]
        results.append(item)
    asked = [*results, *rng.sample(given, rng.choice((1, 2)))]
    rng.shuffle(asked)
    prompt = f"{' '.join(item.statement for item in given)} Say {', '.join(item.name for item in asked)}."
    pieces = [Piece(p.text, p.kind, learn=False) for p in (Piece("<think>"), *steps, Piece("</think>"))]
    for item in asked:
        kind = Kind.PROMPT_ITEM if item in given else Kind.CHAIN_ITEM
        pieces += [Piece(item.name), Piece(WORDS[item.value], kind), Piece(".")]
    return prompt, tuple(pieces)


def repeat(seed: int, index: int, most: int) -> Text:
    """Random words, 8 of them to `most`, then the same words again: what induction heads are good for."""
    rng = random.Random(f"repeat/{seed}/{index}")
    words = " ".join(rng.choices(list(vocabulary()), k=rng.randint(8, most)))
    return words, (Piece(words),)

"""All tables of all topics: `python -m interp.runs.schema` prints them as Markdown."""

from __future__ import annotations

from interp.runs.columns import COMMON, declared


def markdown() -> str:
    """docs/tables.md."""
    lines = ["# Tables", "", "Every table also has " + ", ".join(f"`{c.name}`" for c in COMMON) + "."]
    for name, table in declared().items():
        lines += ["", f"## {name}.parquet", "", "| column | type | meaning | null means |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {c.meaning} | {c.null or 'never null'} |" for c in table.columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")

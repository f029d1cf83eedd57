"""The process that `time_limit.py` starts: calls functions by name, arguments and results as JSON lines.

`python -m interp.grading.worker PARENT MODULE ...` imports these modules first, is confined (`sandbox.py`), says what
of that the platform lacks, and then answers one call a line: seconds of processor time, module, function, arguments.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

from interp.grading.sandbox import allow_seconds, confine, die_with_parent

READY = "ready"


def pack(value: Any) -> Any:
    """A value as JSON can hold it and `unpack` restores it: tuples, sets and keys of any kind included."""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not value.keys() & {"tuple", "set", "items"}:
            return {key: pack(item) for key, item in value.items()}
        return {"items": [[pack(key), pack(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [pack(item) for item in value]
    for kind in (tuple, set):
        if isinstance(value, kind):
            return {kind.__name__: [pack(item) for item in value]}
    return value


def unpack(value: Any) -> Any:
    """What `pack` packed."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if isinstance(value, dict):
        match list(value.items()):
            case [("tuple", items)]:
                return tuple(map(unpack, items))
            case [("set", items)]:
                return set(map(unpack, items))
            case [("items", items)]:
                return {unpack(key): unpack(item) for key, item in items}
        return {key: unpack(item) for key, item in value.items()}
    return value


def main() -> None:
    """Answers calls until the input ends."""
    parent, *modules = sys.argv[1:]
    missing = [lack for lack in [die_with_parent(int(parent))] if lack]
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a function prints must not mix with the replies
    for module in modules:
        import_module(module)
    missing += confine()
    print(json.dumps([READY, missing]), file=replies)
    for line in sys.stdin:
        seconds, module, name, arguments = json.loads(line)
        allow_seconds(seconds)
        try:
            reply = {"result": getattr(import_module(module), name)(*unpack(arguments))}
        except BaseException as error:  # every error goes back to the caller
            reply = {"error": type(error).__name__, "message": str(error)[:500]}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()

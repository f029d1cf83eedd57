"""The process that `interp/time_limit.py` starts: calls functions by name, arguments and results as JSON lines.

`python -m interp.worker MODULE ...` imports these modules first, says so, and then answers one call a line.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from importlib import import_module

MEMORY = 4 * 2**30
"""Address space in bytes."""
READY = "ready"


def main() -> None:
    """Answers calls until the input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a function prints must not mix with the replies
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for module in sys.argv[1:]:
        import_module(module)
    print(READY, file=replies)
    for line in sys.stdin:
        module, name, arguments = json.loads(line)
        try:
            reply = {"result": getattr(import_module(module), name)(*arguments)}
        except BaseException as error:  # every error goes back to the caller
            reply = {"error": type(error).__name__, "message": str(error)[:500]}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()

"""What a container asks its own ops listener, in an image that has no curl.

`ops.py health`; `ops.py drain SECONDS` for preStop; `ops.py log-level debug`. Standard library alone and no import of
the sidecar, because they run beside a serving process that should not share its CPU with another start of itself. The
port is read from the environment, not from a settings file.
"""
# ruff: noqa: INP001 - a script of the image, in no package

from __future__ import annotations

import os
import sys
import time
import urllib.request

ANSWER_SECONDS = 3


def ask(path: str, *, method: str, body: str | None = None) -> None:
    """Print the answer. Raises OSError unless the listener answers with 2xx in time."""
    host = os.environ.get("SIDECAR_OPS_HOST", "")
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    port = os.environ.get("SIDECAR_OPS_PORT", "9464")
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    request = urllib.request.Request(url, method=method, data=None if body is None else body.encode())
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - as above
        print(answer.read().decode().strip())  # noqa: T201 - a person may have asked


def main(arguments: list[str]) -> str | None:
    """The reason for a failure, or nothing."""
    try:
        match arguments:
            case ["health"]:
                ask("/livez", method="GET")
            case ["drain", seconds]:
                time.sleep(float(seconds))  # until endpoints and gateways send new clients elsewhere
                ask("/drain", method="POST")
                # To the end, not to the last connection: a gateway beside us gets its 503 from us meanwhile.
                time.sleep(float(os.environ.get("SIDECAR_DRAIN_SECONDS", "20")))
            case ["log-level", level]:
                ask("/log-level", method="POST", body=level)
            case _:
                return "ops.py health | ops.py drain SECONDS | ops.py log-level debug|info|warning|error"
    except OSError as error:
        return f"{arguments[0]}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

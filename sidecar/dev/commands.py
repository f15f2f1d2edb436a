"""`dev` and `token`: the commands for a developer's desk."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.dev.issuer import DEFAULT_TTL_SECONDS, Issuer
from sidecar.guid import canonical_guid

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name

DEV_DIRECTORY = Path(".dev")
_NOT_HERE = "dev is not part of this installation: run it from a checkout"


def add_to(commands: Commands) -> None:
    """Add the developer's commands to the parser's."""
    dev = commands.add_parser(
        "dev", help="run a sidecar on loopback with its own keys, sample rooms and people, and a demo page"
    )
    dev.set_defaults(run=_dev)
    token = commands.add_parser("token", help="print a token signed with the key of dev")
    token.add_argument("--account", required=True, type=_guid, help="the account's id, a GUID")
    token.add_argument("--bot", action="store_true", help="an API key, to be sent as Authorization: Bot")
    token.add_argument(
        "--ttl", type=_seconds, default=DEFAULT_TTL_SECONDS, help="seconds it is valid (default %(default)s)"
    )
    token.add_argument("--name", default="", help="the account's name")
    token.add_argument("--nick", default="", help="the account's nick")
    token.set_defaults(run=_token)


def _dev(_arguments: argparse.Namespace) -> None:
    try:
        from sidecar.dev import demo_routes, desk  # noqa: PLC0415 - serve need not load what only dev uses
    except ModuleNotFoundError:
        sys.exit(_NOT_HERE)
    if not (demo_routes.DEMO.is_dir() and demo_routes.CLIENT.is_dir()):
        sys.exit(_NOT_HERE)
    sys.exit(desk.run(DEV_DIRECTORY, _issuer()))


def _issuer() -> Issuer:
    try:
        return Issuer(DEV_DIRECTORY)
    except OSError as problem:
        sys.exit(
            f"the key pair of dev is kept in {DEV_DIRECTORY.absolute()}, and that cannot be used: {problem}"
        )


def _token(arguments: argparse.Namespace) -> None:
    issuer = _issuer()
    print(
        issuer.token(
            arguments.account,
            ttl_seconds=arguments.ttl,
            bot=arguments.bot,
            name=arguments.name,
            nick=arguments.nick,
        )
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _guid(text: str) -> str:
    guid = canonical_guid(text)
    if guid is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a GUID")
    return guid

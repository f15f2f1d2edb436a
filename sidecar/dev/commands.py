"""`dev` and `token`: the commands for a developer's desk."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sidecar.dev.issuer import DEFAULT_TTL_SECONDS, Issuer
from sidecar.guid import canonical_guid

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name

DEV_DIRECTORY = Path(".dev")
BAD_KEYS = 2
_NOT_HERE = "dev is not part of this installation: run it from a checkout"


def add_to(commands: Commands) -> None:
    """Add the developer's commands to the parser's."""
    dev = commands.add_parser(
        "dev", help="run a sidecar on loopback with its own keys, sample rooms and people, and a demo page"
    )
    dev.add_argument(
        "--membership",
        metavar="HOST:PORT",
        help="ask this gRPC server for memberships, without TLS, instead of the sample one",
    )
    dev.set_defaults(run=_dev)
    token = commands.add_parser("token", help="print a token signed with the key of dev")
    token.add_argument(
        "--account", required=True, type=_account, help="the account: its id, or its name in .dev/rooms.toml"
    )
    token.add_argument("--bot", action="store_true", help="an API key, to be sent as Authorization: Bot")
    token.add_argument(
        "--ttl", type=_seconds, default=DEFAULT_TTL_SECONDS, help="seconds it is valid (default %(default)s)"
    )
    token.add_argument("--name", default="", help="the account's name")
    token.add_argument("--nick", default="", help="the account's nick")
    token.set_defaults(run=_token)


def _dev(arguments: argparse.Namespace) -> None:
    try:
        from sidecar.dev import demo_routes, desk  # noqa: PLC0415 - serve need not load what only dev uses
    except ModuleNotFoundError:
        sys.exit(_NOT_HERE)
    if not (demo_routes.DEMO.is_dir() and demo_routes.CLIENT.is_dir()):
        sys.exit(_NOT_HERE)
    instead = {"SIDECAR_MEMBERSHIP_TARGET": arguments.membership} if arguments.membership else {}
    sys.exit(desk.run(DEV_DIRECTORY, _issuer(), os.environ | instead))


def _issuer() -> Issuer:
    try:
        return Issuer(DEV_DIRECTORY)
    except OSError as problem:
        where = DEV_DIRECTORY.absolute()
        print(f"the key pair of dev is kept in {where}, and that cannot be used: {problem}", file=sys.stderr)
        sys.exit(BAD_KEYS)


def _token(arguments: argparse.Namespace) -> None:
    issuer = _issuer()
    print(
        issuer.token(
            arguments.account.id,
            ttl_seconds=arguments.ttl,
            bot=arguments.bot,
            name=arguments.name or arguments.account.name,
            nick=arguments.nick,
        )
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


class _Account(NamedTuple):
    id: str
    name: str = ""


def _account(text: str) -> _Account:
    guid = canonical_guid(text)
    if guid is not None:
        return _Account(guid)
    people = _people()
    if text not in people:
        names = ", ".join(people) or "the names of a checkout"
        raise argparse.ArgumentTypeError(f"{text!r} is neither a GUID nor one of {names}")
    return _Account(people[text], text)


def _people() -> dict[str, str]:
    """The ids of dev's people, by name; nobody where dev is not installed."""
    try:
        from sidecar.dev import rooms  # noqa: PLC0415 - only a name needs it
    except ModuleNotFoundError:
        return {}
    try:
        sample = rooms.read(rooms.own_file(DEV_DIRECTORY))
    except (OSError, rooms.BadSample) as problem:
        raise argparse.ArgumentTypeError(f"no names are known: {problem}") from None
    return {name: str(person.id) for name, person in sample.people.items()}

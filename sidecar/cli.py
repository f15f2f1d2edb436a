"""The commands: serve, check-config, dev, token."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import uvloop

import sidecar
from sidecar import config
from sidecar.app import Sidecar
from sidecar.auth.keyset import BadKeys
from sidecar.dev import commands as dev_commands
from sidecar.observe import logs

BAD_SETTINGS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits 2 where the settings or the arguments are wrong."""
    parser = argparse.ArgumentParser(prog="python -m sidecar", description=sidecar.__doc__)
    parser.add_argument("--version", action="version", version=sidecar.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "serve", help="run the sidecar, with the settings of SIDECAR_* (docs/configuration.md)"
    )
    commands.add_parser("check-config", help="say whether serve would start with these settings")
    dev_commands.add_to(commands)
    chosen = parser.parse_args(arguments)
    match chosen.command:
        case "serve":
            _serve(os.environ)
        case "check-config":
            _check_config(os.environ)
        case _:
            chosen.run(chosen)


def _serve(environ: Mapping[str, str]) -> None:
    settings, warnings = _load(environ)
    log = logs.set_up(level=settings.log_level, json=settings.log_format == "json")
    for warning in warnings:
        log.warning(warning)
    try:
        uvloop.run(Sidecar(settings, log).run())
    except (OSError, BadKeys) as problem:
        log.error("cannot start", problem=str(problem))  # noqa: TRY400 - the operator's to mend, not a bug
        sys.exit(BAD_SETTINGS)


def _check_config(environ: Mapping[str, str]) -> None:
    _, warnings = _load(environ)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("settings are good")


def _load(environ: Mapping[str, str]) -> tuple[config.Settings, list[str]]:
    try:
        return config.load(environ)
    except config.BadSettings as bad:
        for problem in bad.problems:
            print(problem, file=sys.stderr)
        sys.exit(BAD_SETTINGS)

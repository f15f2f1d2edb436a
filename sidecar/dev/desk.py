"""`python -m sidecar dev`: the real sidecar on loopback, beside stand-ins for the services around it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import uvloop

from sidecar import config
from sidecar.app import Sidecar
from sidecar.auth.keyset import BadKeys
from sidecar.dev import demo_routes, rooms
from sidecar.dev.chat_service import SampleChatService
from sidecar.dev.issuer import AUDIENCE, Issuer
from sidecar.dev.rooms import state_of
from sidecar.observe import logs

LINK_SECONDS = 24 * 3600
BAD_SETTINGS = 2


def run(directory: Path, issuer: Issuer, environ: Mapping[str, str] = os.environ) -> int:
    """Run until interrupted. The sample file is made in `directory` when first needed. Returns a status."""
    try:
        rooms_file = rooms.own_file(directory)
        chat_service = SampleChatService(file=rooms_file)
        uvloop.run(_serve(issuer, chat_service, rooms_file, environ))
    except (config.BadSettings, rooms.BadSample, BadKeys, OSError) as problem:
        print(problem, file=sys.stderr)
        return BAD_SETTINGS
    return 0


async def _serve(
    issuer: Issuer, chat_service: SampleChatService, rooms_file: Path, environ: Mapping[str, str]
) -> None:
    target = f"127.0.0.1:{await chat_service.start('127.0.0.1:0')}"
    try:
        settings, warnings = config.load(_settings(issuer, target, environ))
        log = logs.set_up(level=settings.log_level, json=settings.log_format == "json")
        for warning in warnings:
            log.warning(warning)
        sidecar = Sidecar(settings, log)
        demo_routes.add_to(
            sidecar.signaling,
            issuer=issuer,
            chat_service=chat_service,
            rooms_file=rooms_file,
            mount_prefix=settings.mount_prefixes[0],
        )
        sidecar.on_started = lambda: print(_who_may_join(issuer, chat_service, target, rooms_file, sidecar))
        await sidecar.run()
    finally:
        await chat_service.stop()


def _settings(issuer: Issuer, membership_target: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The defaults of a desk, under what the environment says, but never open to other machines."""
    ours = {
        "SIDECAR_HOST": "127.0.0.1",
        "SIDECAR_OPS_HOST": "127.0.0.1",
        "SIDECAR_OPS_PAGE": "true",
        "SIDECAR_JWT_PUBLIC_KEY_FILE": str(issuer.public_file),
        "SIDECAR_JWT_AUDIENCES": AUDIENCE,
        "SIDECAR_MEMBERSHIP_TARGET": membership_target,
        "SIDECAR_LOG_FORMAT": "console",
        "SIDECAR_DRAIN_SECONDS": "0",
    } | {name: value for name, value in environ.items() if name.startswith("SIDECAR_")}
    for name in ("SIDECAR_HOST", "SIDECAR_OPS_HOST"):
        if ours[name] != "localhost" and not _is_loopback(ours[name]):
            raise config.BadSettings(
                [f"{name}: {ours[name]!r}: dev serves loopback only: its keys and tokens are free"]
            )
    return ours


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _who_may_join(
    issuer: Issuer, chat_service: SampleChatService, sample_target: str, rooms_file: Path, sidecar: Sidecar
) -> str:
    """What a person needs to try it: links, and one token to paste."""
    origin, prefix = f"http://{sidecar.address}", sidecar.settings.mount_prefixes[0]
    people, lines = chat_service.people(), []
    for room_name, room in chat_service.rooms().items():
        lines.append(f"\n  {room_name}  {room.id}")
        for name, member in room.members.items():
            state = state_of(member)
            person_id = people[name].id
            link = f"{origin}/?room={room.id}&as={person_id}"
            may = link if state == "active" else f"may not join: {state}"
            lines.append(f"    {name:<8} {person_id}  {may}")
    room_name, name = next(
        ((room_name, name) for room_name, room in chat_service.rooms().items() for name in room.members),
        ("", ""),
    )
    if name:
        account, room_id = str(people[name].id), chat_service.rooms()[room_name].id
        token = issuer.token(account, ttl_seconds=LINK_SECONDS, name=name)
        socket = f"ws://{sidecar.address}{prefix}/chat/realtime/{room_id}"
        lines.append(f"\n  {name}'s token for a day:\n  {token}\n\n  {socket}?tk=<token>")
    target = sidecar.settings.membership_target
    effect = "edits count at once" if target == sample_target else f"but who may join is asked of {target}"
    return (
        f"\nDemo: {origin}/   open it twice and call yourself\n"
        f"Live: http://{sidecar.ops_address}/   what the sidecar is doing right now\n"
        f"People and rooms: {rooms_file}   {effect}\n"
        + "\n".join(lines)
        + f"\n\n  Metrics and probes: http://{sidecar.ops_address}/metrics /livez /readyz"
        + f"\n  Another token: {_python()} -m sidecar token --account <name or id>\n  Ctrl-C stops it.\n"
    )


def _python() -> str:
    """How to name this interpreter from here."""
    executable, here = Path(sys.executable), Path.cwd()
    return str(executable.relative_to(here) if executable.is_relative_to(here) else executable)

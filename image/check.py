"""Builds the image and starts it, without a registry and without a container runtime: `make image-check`.

buildah builds on a base made here by debootstrap (Debian's Python in place of the official image's, everything
else as it ships), then the result runs as PID 1 of its own namespaces on a read-only root, under the image's own
user, environment and command. Needs root, buildah and debootstrap; takes about two minutes the first time.
"""
# ruff: noqa: INP001, S603, S607, T201 - a script of the image that prints, and starts what it is there to start

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, auth_settings, guid, http, until

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".dev" / "image"
BASE, IMAGE = "localhost/sphere-base", "localhost/sphere-sidecar"
PORT, OPS_PORT = 18080, 19464
DRAIN_SECONDS = 1
FILES = "/mnt"
NOT_IN_AN_IMAGE = ("gcc", "cc", "pip", "pip3", "uv", "git", "make")


class Failed(Exception):
    """The image is not what it should be."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)
    print(f"  ok  {what}")


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def buildah(*arguments: str) -> str:
    storage = ("--storage-driver", "vfs", "--root", str(WORK / "storage"), "--runroot", str(WORK / "run"))
    return run("buildah", *storage, *arguments)


def make_base() -> None:
    """A Debian with Python where the official image has it. Trusts what this machine trusts."""
    if BASE in buildah("images", "--format", "{{.Name}}").splitlines():
        return
    rootfs = WORK / "rootfs"
    shutil.rmtree(rootfs, ignore_errors=True)
    packages = "ca-certificates,python3-venv,python3-distutils"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(rootfs))
    (rootfs / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    bundle = "etc/ssl/certs/ca-certificates.crt"
    shutil.copy(f"/{bundle}", rootfs / bundle)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(rootfs), "/")
    for variable in ("SSL_CERT_FILE", "PIP_CERT"):
        buildah("config", "--env", f"{variable}=/{bundle}", container)
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(rootfs)


def build() -> dict[str, Any]:
    """Build the image; its configuration."""
    started = time.monotonic()
    buildah("bud", "--pull-never", "--isolation", "chroot", "--format", "docker",
            "--build-arg", f"BASE={BASE}", "--tag", IMAGE, ".")  # fmt: skip
    print(f"built in {time.monotonic() - started:.0f} s")
    configuration: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"][
        "config"
    ]
    return configuration


@contextmanager
def mounted() -> Iterator[Path]:
    container = buildah("from", "--pull-never", IMAGE)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def look_inside(root: Path, configuration: dict[str, Any]) -> None:
    check(configuration["User"] == "65532:65532", "the user is a fixed number, not root")
    check(configuration["Entrypoint"] == ["python", "-m", "sidecar"], "the command is in exec form")
    check(configuration["Healthcheck"]["Test"][0] == "CMD", "there is a health check, in exec form")
    check("org.opencontainers.image.source" in configuration["Labels"], "there are OCI labels")
    path = next(text for text in configuration["Env"] if text.startswith("PATH=")).removeprefix("PATH=")
    folders = [root / folder.lstrip("/") for folder in path.split(":")]
    left = [tool for tool in NOT_IN_AN_IMAGE for folder in folders if os.path.lexists(folder / tool)]
    check(not left, f"no compiler, pip or uv {left or ''}")
    check(not list((root / "opt/sidecar").rglob("pip")), "no pip module beside the dependencies")
    check(not (root / "app/sidecar/dev/demo").exists(), "no demo of the developer's desk")
    sources = list((root / "app").rglob("*.py"))
    check(
        all(list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")) for path in sources),
        "byte code is there",
    )
    sizes = {name: _megabytes(root / name) for name in ("opt/sidecar", "app")}
    print(f"figures: dependencies {sizes['opt/sidecar']:.0f} MB, the program {sizes['app']:.1f} MB on disk")


def _megabytes(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*")) / 1e6


class Container:
    """The image's command as PID 1, on a read-only root, with this machine's network."""

    def __init__(
        self, root: Path, configuration: dict[str, Any], environment: dict[str, str], files: Path
    ) -> None:
        self._environment = [
            *configuration["Env"],
            *(f"{name}={value}" for name, value in environment.items()),
        ]
        self._user, self._group = configuration["User"].split(":")
        prepare = (
            'mount --bind "$1" "$1" && mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc"'
            f' && mount --bind "$2" "$1{FILES}" && mount -o remount,bind,ro "$1"'
            " && root=$1 && user=$3 && folder=$4 && shift 4"
            ' && exec chroot --userspec="$user" "$root" /usr/bin/env -i --chdir="$folder" "$@"'
        )
        command = [*configuration["Entrypoint"], *configuration["Cmd"]]
        self._unshare = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", prepare, "sh",
             str(root), str(files), configuration["User"], configuration["WorkingDir"], *self._environment, *command],
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """As this machine counts; inside it is 1."""
        parent = self._unshare.pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def status(self, name: str) -> list[str]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line for line in lines if line.startswith(f"{name}:")).split()[1:]

    def cannot_write(self, path: str) -> bool:
        """Whether the file system itself refuses, even root."""
        try:
            Path(f"/proc/{self.pid}/root/{path}").touch()
        except OSError as error:
            return error.errno == errno.EROFS
        return False

    async def execute(self, *command: str) -> int:
        """Run a command inside, as a health check or a hook is run; its exit status."""
        enter = ("nsenter", "--target", str(self.pid), "--mount", "--pid", "--root", "--wd",
                 "--setuid", self._user, "--setgid", self._group)  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *enter, "/usr/bin/env", "-i", *self._environment, *command
        )
        return await process.wait()

    def terminate(self) -> None:
        os.kill(self.pid, 15)

    async def exit_status(self) -> int:
        return await asyncio.to_thread(self._unshare.wait, DRAIN_SECONDS + 10)

    def kill(self) -> None:
        self._unshare.kill()
        self._unshare.wait()


async def is_up(path: str) -> bool:
    try:
        return (await http(f"http://127.0.0.1:{OPS_PORT}{path}")).status == 200  # noqa: PLR2004
    except OSError:
        return False


async def start_and_use(root: Path, configuration: dict[str, Any]) -> None:
    files = WORK / "files"
    issuer = Issuer(files)
    files.chmod(0o755)
    settings = {name: str(value) for name, value in auth_settings(issuer).items()}
    settings["jwt_public_key_file"] = f"{FILES}/{issuer.public_file.name}"
    async with ChatServiceDouble() as chat:
        environment = {
            f"SIDECAR_{name.upper()}": value
            for name, value in {
                **settings,
                "host": "127.0.0.1", "port": str(PORT), "ops_host": "127.0.0.1", "ops_port": str(OPS_PORT),
                "membership_target": chat.target, "drain_seconds": str(DRAIN_SECONDS),
            }.items()
        }  # fmt: skip
        began = time.monotonic()
        container = Container(root, configuration, environment, files)
        try:
            await until(lambda: is_up("/readyz"), "ready")
            print(f"figures: ready {time.monotonic() - began:.2f} s after its start")
            await use(container, chat, issuer, configuration)
        finally:
            container.kill()


async def use(
    container: Container, chat: ChatServiceDouble, issuer: Issuer, configuration: dict[str, Any]
) -> None:
    check(container.status("NSpid")[-1] == "1", "it is PID 1 itself, under no shell")
    check(set(container.status("Uid")) == {"65532"}, "it runs as 65532")
    check(container.cannot_write("app/written"), "its root is read-only")
    resident = int(container.status("VmRSS")[0]) / 1000
    print(f"figures: {resident:.0f} MB resident when ready")
    began = time.monotonic()
    check(await container.execute(*configuration["Healthcheck"]["Test"][1:]) == 0, "the health check passes")
    print(f"figures: a health check takes {time.monotonic() - began:.2f} s")

    sidecar = Sidecar(None, port=PORT, ops_port=OPS_PORT)  # the process is the container's
    room = guid()
    clients: list[Client] = []
    for _ in range(2):
        account = guid()
        chat.allow(room, account)
        clients.append(await sidecar.connect(room, issuer.token(account)))
    await clients[1].send({"type": "offer", "data": {"sdp": "o"}})
    offer = await clients[0].receive_signal("offer")
    check(offer["senderAccountId"] == clients[1].welcome["userId"], "a signaling round trip")

    container.terminate()
    closes = await asyncio.gather(*(client.closed() for client in clients))
    check([code for code, _ in closes] == [1012, 1012], "SIGTERM drains: every client is told to come back")
    check(await container.exit_status() == 0, "it exits with 0")


def layers() -> None:
    """What a registry would keep of it."""
    target = WORK / "pushed"
    shutil.rmtree(target, ignore_errors=True)
    buildah("push", "--quiet", IMAGE, f"oci:{target}")
    [manifest] = json.loads((target / "index.json").read_text())["manifests"]
    blob = target / "blobs" / manifest["digest"].replace(":", "/")
    base, *ours = [layer["size"] for layer in json.loads(blob.read_text())["layers"]]
    print(f"figures: {sum(ours) / 1e6:.0f} MB compressed above the base, which has {base / 1e6:.0f} MB here")
    shutil.rmtree(target)


def main() -> str | None:
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: apt-get install buildah debootstrap"
    if os.geteuid() != 0:
        return "root is needed, for debootstrap and namespaces"
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        make_base()
        configuration = build()
        with mounted() as root:
            look_inside(root, configuration)
            asyncio.run(start_and_use(root, configuration))
        layers()
        buildah("rmi", "--prune", "--force")
    except (Failed, subprocess.TimeoutExpired) as failed:
        return f"image-check: {failed}"
    print("the image is good")
    return None


if __name__ == "__main__":
    sys.exit(main())

# ruff: noqa: INP001, T201 - a command, not a package; it prints what it did
"""Generate `sidecar/_proto` from the .proto files of this folder.

`--check` writes nothing and exits with 1 when the generated code is not what these files say.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
REPOSITORY = PROTOS.parent
PACKAGE = Path("sidecar", "_proto")
# protoc writes imports by the names of the files, which stay those of the protocol: descriptors and reflection tell
# them to the other side. Where the code lies is ours to say.
OWN_IMPORT = re.compile(r"^((?:from|import) )(dyson\.)", re.MULTILINE)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="compare only")
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted = contents(Path(folder, PACKAGE))
    present = contents(REPOSITORY / PACKAGE)
    differing = sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )
    if options.parse_args().check:
        for name in differing:
            print(f"{PACKAGE / name} is not what protos/ says; run: make proto", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        write(REPOSITORY / PACKAGE / name, wanted.get(name))
        print(f"{PACKAGE / name} {'written' if name in wanted else 'removed'}")
    return 0


def generate(output: Path) -> None:
    """Run protoc over every .proto file into `output`, packages and all."""
    package = output / PACKAGE
    package.mkdir(parents=True)
    sources = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))]
    plugins = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={package}",
            f"--grpc_python_out={package}",
            f"--mypy_out=quiet:{package}",
            f"--mypy_grpc_out=quiet:{package}",
            *sources,
        ]
    )
    if status:
        sys.exit(status)
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (folder / "__init__.py").touch()
    for path in contents(package):
        generated = package / path
        generated.write_text(
            OWN_IMPORT.sub(r"\1" + ".".join(PACKAGE.parts) + r".\2", generated.read_text("utf-8")), "utf-8"
        )


def contents(folder: Path) -> dict[Path, bytes]:
    """Every generated file under `folder`, by its path in it."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi"}
    }


def write(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())

"""What the docs say is what the program does."""

from __future__ import annotations

import re

from sidecar import errors
from sidecar.auth.credentials import Source
from sidecar.config import Settings
from sidecar.errors import ComeBack, RefusalCode
from sidecar.signaling.envelope import Dialect
from sidecar.signaling.packets import PacketErrorCode
from sidecar.transport.conduct import FLOOD_MESSAGES, MALFORMED_ALLOWED
from tests.harness import ROOT

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`|(required)|) *\|", re.MULTILINE)
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md")))
PATH = re.compile(r"(?<![\w./-])(?:\w[\w.-]*/)+[\w-]+\.(?:py|js|c|toml|yaml|json|sh|md|svg|png)\b")


def test_every_setting_is_documented_with_its_default():
    documented = {
        name.lower(): (default, bool(required)) for name, default, required in ROW.findall(CONFIGURATION)
    }
    actual = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if field.is_required():
            text = ""
        elif isinstance(default, tuple):
            text = ",".join(default)
        else:
            text = (
                "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
            )
        actual[name] = (text, field.is_required())
    assert documented == actual


def test_every_refusal_and_packet_error_is_documented():
    internal = {RefusalCode.BAD_REQUEST, RefusalCode.INTERNAL_ERROR}
    for code in (set(RefusalCode) - internal) | set(PacketErrorCode):
        assert f"`{code}`" in PROTOCOL, code


def test_every_close_code_is_documented_with_what_to_do_then():
    table = PROTOCOL[PROTOCOL.index("## Close codes") : PROTOCOL.index("## Dialects")]
    advice = {
        int(code): told
        for codes, told in re.findall(r"^\| ([\d, ]+) \|.*\| *(.*?) *\|$", table, re.MULTILINE)
        for code in codes.split(",")
    }
    ours = [value for value in vars(errors).values() if isinstance(value, errors.Disconnect)]
    assert advice.keys() == {1000, 1002, 1009} | {disconnect.code for disconnect in ours}
    begins = {
        ComeBack.NO: "no",
        ComeBack.AFTER_FIXING: "after fixing it",
        ComeBack.WITH_BACKOFF: "yes",
        ComeBack.WITH_NEW_TOKEN: "with a new token",
    }
    for disconnect in ours:
        assert advice[disconnect.code].startswith(begins[disconnect.come_back]), disconnect


def test_every_close_reason_fits_its_frame():
    for value in vars(errors).values():
        if isinstance(value, errors.Disconnect):
            assert 0 < len(value.reason.encode()) <= 123


def test_dialects_places_and_figures_are_documented():
    for dialect in Dialect:
        assert f"- `{dialect}`" in PROTOCOL
    assert len(Source) == len(re.findall(r"^\d\. ", PROTOCOL, re.MULTILINE))
    assert f"{MALFORMED_ALLOWED} malformed packets within a minute" in PROTOCOL
    assert f"{FLOOD_MESSAGES} more without a pause" in PROTOCOL


def test_only_files_and_targets_that_exist_are_named():
    makefile = (ROOT / "Makefile").read_text()
    for page in (*PAGES, ROOT / "pyproject.toml"):
        text = page.read_text()
        for path in PATH.findall(text):
            assert any((folder / path).exists() for folder in (ROOT, ROOT / "sidecar", page.parent)), (
                page,
                path,
            )
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / link).exists(), (page, link)
        for target in re.findall(r"`make ([\w-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page, target)


def test_every_module_has_its_place_in_the_architecture():
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    source = ROOT / "sidecar"
    for module in source.rglob("[a-z]*.py"):
        if module.relative_to(source).parts[0] not in {"_proto", "dev"}:
            assert f"`{module.name}`" in architecture or f"/{module.name}`" in architecture, module


def test_no_file_names_another_index_than_the_public_default():
    lock = (ROOT / "uv.lock").read_text()
    hosts = set(re.findall(r"https?://([^/\"]+)", lock))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}

"""What the docs say is what the program does."""

from __future__ import annotations

import re

from sidecar import errors
from sidecar.auth.credentials import Source
from sidecar.config import Settings
from sidecar.errors import RefusalCode
from sidecar.signaling.envelope import Dialect
from sidecar.signaling.packets import PacketErrorCode
from sidecar.transport.conduct import FLOOD_MESSAGES, MALFORMED_ALLOWED
from tests.harness import ROOT

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`|(required)|) *\|", re.MULTILINE)


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


def test_every_close_code_is_documented():
    codes = {value.code for value in vars(errors).values() if isinstance(value, errors.Disconnect)}
    table = PROTOCOL[PROTOCOL.index("## Close codes") : PROTOCOL.index("## Dialects")]
    documented = {
        int(code) for line in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in line.split(",")
    }
    assert documented == codes | {1000}


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


def test_the_readme_names_only_what_exists():
    readme = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_file_names_another_index_than_the_public_default():
    lock = (ROOT / "uv.lock").read_text()
    hosts = set(re.findall(r"https?://([^/\"]+)", lock))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}

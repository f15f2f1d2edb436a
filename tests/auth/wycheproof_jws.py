"""The Wycheproof vectors for JSON Web Signatures, from the Go module proxy: they have no package in Python."""

import hashlib
import io
import json
import os
import urllib.request
import zipfile
from pathlib import Path

MODULE = "github.com/c2sp/wycheproof"
VERSION = "v0.0.0-20260902155932-3fa63dd0344a"
MEMBER = "testvectors_v1/json_web_signature_test.json"
SHA256 = "8e687a06fe8359f4ec51480f1a9f73c8faebd6f4c01b818b843b44eee54fd5d9"
"""Of that one file, whatever proxy packed it."""
PUBLIC_PROXY = "https://proxy.golang.org"
CACHED = Path(__file__).parents[2] / ".dev" / "wycheproof" / f"{VERSION}.json"
DEADLINE_SECONDS = 60


def vectors():
    """The groups of vectors, fetched once (26 MB) and kept in .dev/."""
    document = CACHED.read_bytes() if CACHED.exists() else _fetch()
    if hashlib.sha256(document).hexdigest() != SHA256:
        CACHED.unlink(missing_ok=True)
        raise RuntimeError(f"{MEMBER} of {MODULE} {VERSION} is not what was pinned")
    if not CACHED.exists():
        CACHED.parent.mkdir(parents=True, exist_ok=True)
        partial = CACHED.with_suffix(f".{os.getpid()}")
        partial.write_bytes(document)
        partial.replace(CACHED)
    return json.loads(document)


def _fetch():
    first = os.environ.get("GOPROXY", "").replace("|", ",").partition(",")[0].strip()
    proxy = first if "://" in first else PUBLIC_PROXY
    url = f"{proxy.rstrip('/')}/{MODULE}/@v/{VERSION}.zip"
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
            module = zipfile.ZipFile(io.BytesIO(answer.read()))
        return module.read(f"{MODULE}@{VERSION}/{MEMBER}")
    except (OSError, zipfile.BadZipFile, KeyError) as problem:
        raise RuntimeError(
            f"the Wycheproof vectors cannot be had from {url} ({problem}); name a Go module proxy that can be reached "
            f"in GOPROXY, or put {MEMBER} of {MODULE} {VERSION} at {CACHED}"
        ) from problem

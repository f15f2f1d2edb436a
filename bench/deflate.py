"""What permessage-deflate (RFC 7692) would cost and save for signaling (python -m bench.deflate). Not negotiated."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable

SYNC_FLUSH_TAIL = 4
ROUNDS = 300
_CODECS = (
    (111, "opus/48000/2"), (63, "red/48000/2"), (9, "G722/8000"), (0, "PCMU/8000"), (8, "PCMA/8000"), (96, "VP8/90000"),
    (97, "rtx/90000"), (98, "VP9/90000"), (99, "rtx/90000"), (100, "H264/90000"), (101, "rtx/90000"), (45, "AV1/90000"),
)  # fmt: skip


def offer(size: int, number: int) -> bytes:
    """An offer as browsers write it: lines that repeat themselves, and secrets that do not."""
    chance = random.Random(number)
    secret = f"{chance.getrandbits(256):064x}"
    fingerprint = ":".join(secret[i : i + 2].upper() for i in range(0, 64, 2))
    lines = ["v=0", f"o=- {number}{secret[:12]} 2 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=ice-ufrag:{secret[:4]}",
             f"a=ice-pwd:{secret[4:28]}", f"a=fingerprint:sha-256 {fingerprint}", "a=setup:actpass"]  # fmt: skip
    text = "\\r\\n".join(lines)
    at = 0
    while len(text) < size - 80:
        payload, codec = _CODECS[at % len(_CODECS)]
        text += f"\\r\\na=rtpmap:{payload} {codec}\\r\\na=rtcp-fb:{payload} transport-cc"
        text += f"\\r\\na=rtcp-fb:{payload} nack pli"
        text += f"\\r\\na=ssrc:{chance.getrandbits(32)} cname:{chance.getrandbits(64):016x}"
        at += 1
    return f'{{"type":"webrtc.signal","data":{{"type":"offer","data":{{"sdp":"{text[:size]}"}}}}}}'.encode()


def main() -> None:
    print(
        "| packet | context | bytes on the wire | saved | compress µs | decompress µs | KB held per direction |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    for size in (300, 1024, 8192):
        packets = [offer(size, number) for number in range(ROUNDS)]
        for name, keep in (("new for each packet", False), ("kept", True)):
            packed, compressing, decompressing = _measure(packets, keep=keep)
            plain = sum(map(len, packets))
            held = "268 + 44" if keep else "0 between packets"
            print(
                f"| {size} B | {name} | {packed / ROUNDS:.0f} | {100 - packed / plain * 100:.0f} % "
                f"| {compressing / ROUNDS * 1e6:.0f} | {decompressing / ROUNDS * 1e6:.0f} | {held} |"
            )


def _measure(packets: list[bytes], *, keep: bool) -> tuple[int, float, float]:
    """Bytes, and CPU seconds of compressing and decompressing all."""
    deflate, inflate = _deflate(), zlib.decompressobj(wbits=-15)
    packed: list[bytes] = []

    def compress() -> None:
        nonlocal deflate
        for packet in packets:
            if not keep:
                deflate = _deflate()
            packed.append((deflate.compress(packet) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-SYNC_FLUSH_TAIL])

    def decompress() -> None:
        nonlocal inflate
        for packet in packed:
            if not keep:
                inflate = zlib.decompressobj(wbits=-15)
            inflate.decompress(packet + b"\x00\x00\xff\xff")

    compressing, decompressing = _timed(compress), _timed(decompress)
    return sum(map(len, packed)), compressing, decompressing


def _deflate() -> zlib._Compress:
    return zlib.compressobj(level=6, wbits=-15, memLevel=8)


def _timed(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    main()

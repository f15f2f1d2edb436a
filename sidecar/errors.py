"""The two ways the sidecar says no: a `Refusal` answers a request, a `Disconnect` ends a connection.

Both are closed sets. They are raised or named deep and mapped to bytes once, in `edge/answers.py`
and `transport/connection.py`. Any other exception is a bug: status 500, close code 1011.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class RefusalCode(StrEnum):
    """The `code` of an HTTP error body, and in lower case the `outcome` of `handshakes_total`."""

    BAD_REQUEST = "BAD_REQUEST"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    UNAVAILABLE = "UNAVAILABLE"
    RATE_LIMITED = "RATE_LIMITED"
    UNAUTHORIZED = "UNAUTHORIZED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    ORIGIN_NOT_ALLOWED = "ORIGIN_NOT_ALLOWED"
    NOT_A_MEMBER = "NOT_A_MEMBER"
    MEMBER_TIMED_OUT = "MEMBER_TIMED_OUT"
    MEMBERSHIP_UNAVAILABLE = "MEMBERSHIP_UNAVAILABLE"
    WEBSOCKET_EXPECTED = "WEBSOCKET_EXPECTED"
    UNKNOWN_DIALECT = "UNKNOWN_DIALECT"
    ROOM_FULL = "ROOM_FULL"
    TOO_MANY_CONNECTIONS = "TOO_MANY_CONNECTIONS"
    INTERNAL_ERROR = "INTERNAL_ERROR"


_STATUS = {
    RefusalCode.BAD_REQUEST: 400,
    RefusalCode.NOT_FOUND: 404,
    RefusalCode.METHOD_NOT_ALLOWED: 405,
    RefusalCode.UNAVAILABLE: 503,
    RefusalCode.RATE_LIMITED: 429,
    RefusalCode.UNAUTHORIZED: 401,
    RefusalCode.TOKEN_EXPIRED: 401,
    RefusalCode.TOKEN_REVOKED: 401,
    RefusalCode.ORIGIN_NOT_ALLOWED: 403,
    RefusalCode.NOT_A_MEMBER: 403,
    RefusalCode.MEMBER_TIMED_OUT: 403,
    RefusalCode.MEMBERSHIP_UNAVAILABLE: 503,
    RefusalCode.WEBSOCKET_EXPECTED: 400,
    RefusalCode.UNKNOWN_DIALECT: 400,
    RefusalCode.ROOM_FULL: 409,
    RefusalCode.TOO_MANY_CONNECTIONS: 409,
    RefusalCode.INTERNAL_ERROR: 500,
}


class Refusal(Exception):
    """A request is answered with an error instead of an upgrade.

    `message` and `detail` are read by people and sent to the client: no token, no address, no internals.
    `retry_after_seconds` becomes `Retry-After`; statuses 429 and 503 always carry one (1 unless given).
    """

    def __init__(
        self,
        code: RefusalCode,
        message: str,
        *,
        detail: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds

    @property
    def status(self) -> int:
        return _STATUS[self.code]


class ComeBack(Enum):
    """What a client may do after a close code."""

    NO = "no"
    AFTER_FIXING = "after fixing it"
    WITH_BACKOFF = "with backoff"
    WITH_NEW_TOKEN = "with a new token"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Why a connection is ended: a close code and a reason a person can read (at most 123 bytes, RFC 6455 5.5)."""

    code: int
    reason: str
    come_back: ComeBack

    def because(self, reason: str) -> Disconnect:
        """The same close code with a more exact reason."""
        return Disconnect(self.code, reason, self.come_back)


# 1002, and 1009 for a message too big, are the framing library's to say, with reasons of its own.
INVALID_UTF8 = Disconnect(1007, "text frame is not UTF-8", ComeBack.AFTER_FIXING)
TOO_MANY_MALFORMED = Disconnect(1008, "20 malformed packets within a minute", ComeBack.NO)
INTERNAL_ERROR = Disconnect(1011, "internal error of the sidecar", ComeBack.WITH_BACKOFF)
DRAINING = Disconnect(1012, "this sidecar is restarting", ComeBack.WITH_BACKOFF)
SLOW_CONSUMER = Disconnect(1013, "too slow at reading what the room sends", ComeBack.WITH_BACKOFF)
MEMBERSHIP_UNVERIFIABLE = Disconnect(
    1013, "membership could not be verified for too long", ComeBack.WITH_BACKOFF
)
TOKEN_EXPIRED = Disconnect(4401, "token expired", ComeBack.WITH_NEW_TOKEN)
TOKEN_TOO_OLD = Disconnect(4401, "no newer token came for too long", ComeBack.WITH_NEW_TOKEN)
SESSION_REVOKED = Disconnect(4401, "session revoked", ComeBack.WITH_NEW_TOKEN)
MEMBERSHIP_ENDED = Disconnect(4403, "no longer an active member of this room", ComeBack.NO)
NO_PONG = Disconnect(4408, "no pong in time", ComeBack.WITH_BACKOFF)
MESSAGE_FLOOD = Disconnect(4429, "went on sending after RATE_LIMITED", ComeBack.WITH_BACKOFF)

"""`auth.refresh`: whether the token a live connection shows is good for it, and whether it is newer."""

from __future__ import annotations

from math import inf

from sidecar.auth.verifier import Principal, Use, Verifier
from sidecar.errors import Refusal, RefusalCode
from sidecar.signaling.packets import PacketError, PacketErrorCode

_ERRORS = {
    RefusalCode.TOKEN_EXPIRED: PacketErrorCode.TOKEN_EXPIRED,
    RefusalCode.TOKEN_REVOKED: PacketErrorCode.TOKEN_REVOKED,
}


async def judge(verifier: Verifier, token: str, *, held: Principal) -> Principal:
    """Who a connection speaks for from now on: `held`, its present principal, if the token is not newer than that.

    Raises:
        PacketError: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED, TOKEN_OF_ANOTHER_ACCOUNT.
    """
    try:
        principal = await verifier.verify(token, bot=held.use is Use.API_KEY)
    except Refusal as refusal:
        raise PacketError(_ERRORS.get(refusal.code, PacketErrorCode.TOKEN_INVALID), refusal.message) from None
    if principal.account_id != held.account_id:
        raise PacketError(
            PacketErrorCode.TOKEN_OF_ANOTHER_ACCOUNT,
            "the token belongs to another account than this connection",
        )
    return principal if _age(principal) > _age(held) else held  # one that is not newer proves nothing new


def _age(principal: Principal) -> tuple[float, float]:
    """Greater for a newer token: issued later, or in the same second for longer."""
    return principal.issued_at or 0.0, inf if principal.expires_at is None else principal.expires_at

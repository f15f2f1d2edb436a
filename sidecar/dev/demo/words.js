/** What codes mean, in words for whoever looks at the page. */

const REFUSED = {
  UNAUTHORIZED: "The token was missing or no good.",
  TOKEN_EXPIRED: "The token had expired.",
  TOKEN_REVOKED: "The session behind the token was ended.",
  ORIGIN_NOT_ALLOWED: "Pages of this origin may not sign in with a cookie.",
  NOT_A_MEMBER: "This person is not an active member of the room.",
  MEMBER_TIMED_OUT: "This person is timed out in the room.",
  MEMBERSHIP_UNAVAILABLE: "The chat service could not be asked who belongs to the room.",
  UNAVAILABLE: "The sidecar is restarting, or full.",
  RATE_LIMITED: "Too many in too short a time.",
  ROOM_FULL: "The room has as many connections as it may.",
  TOO_MANY_CONNECTIONS: "This person has as many connections as they may.",
  UNREACHABLE: "Nothing answers at the server's address.",
  TARGET_NOT_IN_ROOM: "A signal was for someone who is no longer there.",
  INVALID_JSON: "A packet was not JSON.",
  INVALID_MESSAGE: "A packet was not of a form the sidecar takes.",
  TOKEN_INVALID: "The new token was no good.",
  TOKEN_OF_ANOTHER_ACCOUNT: "The new token belongs to somebody else.",
};

const CLOSES = {
  1006: "The connection broke without a word.",
  1008: "Too many packets were malformed.",
  1009: "A packet was too big.",
  1011: "The sidecar had a fault.",
  1012: "The sidecar is restarting.",
  1013: "The sidecar could not keep the connection.",
  4401: "The token expired, or its session was ended.",
  4403: "The membership of this room ended.",
  4408: "No sign of life for too long.",
  4409: "This connection was replaced by another one.",
  4429: "Too many packets, even after a warning.",
};

const NEXT = {
  ready: "It would connect now.",
  token: "A new token is asked for, then it tries again.",
  stop: "It does not try again.",
  later: "It tries again later.",
};

const ENDINGS = {
  left: ["You hung up", "The others were told. The room is still there."],
  "not-a-member": ["You are not an active member of this room", "Its active members alone may join the call."],
  "timed-out": ["You are timed out in this room", "You may come back when the time is over."],
  "no-such-room": ["There is no such room", "The address of the room is not one the sidecar knows."],
  "origin-not-allowed": ["This page may not connect", "Its origin is not on the sidecar's list."],
  "message-too-big": ["A packet was too big", "The sidecar ended the connection because of it."],
  "protocol-error": ["The sidecar could not read this page's packets", "That is a fault of this page."],
  replaced: ["This call went on elsewhere", "The connection was replaced by another one of yours."],
};

export function meaningOf(code) {
  return REFUSED[code] ?? CLOSES[code] ?? "";
}

/** Why a connection was closed, said once: in the sidecar's words, else in ours. */
export function whyClosed(code, reason) {
  return reason ? `${reason[0].toUpperCase()}${reason.slice(1).replace(/\.$/, "")}.` : meaningOf(code);
}

export function nextAfter(verdict) {
  return NEXT[verdict] ?? "";
}

/** Title, reason and what is next, for the page shown at the end; `wasIn`: the call had been joined before. */
export function endingOf(closed, wasIn) {
  if (closed.reason === "not-a-member" && wasIn) {
    return ["You were removed from this room", "Your membership ended, and with it the call.", "This page stays out: it does not try again by itself."];
  }
  const [title, why] = ENDINGS[closed.reason] ?? ["The sidecar said no", closed.message];
  if (closed.reason === "left") return [title, why, ""];
  if (closed.until) return [title, `${why} That is ${new Date(closed.until).toLocaleString()}.`, "This page stays out until you join again."];
  return [title, why, "This page stays out: it does not try again by itself."];
}

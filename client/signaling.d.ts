/** Types of signaling.js. The wire format is described in docs/protocol.md, the use in docs/clients.md. */

/**
 * A token, or where to get one. A function is called for every attempt to connect and before the token in use
 * expires; `renew` says that the one it gave last was refused or is about to expire. It may give that one again
 * (it is asked again later), or null where there is none.
 */
export type TokenSource = string | ((need: { renew: boolean }) => string | null | Promise<string | null>);

/** `subprotocol` keeps the token out of URLs and so out of access logs; `cookie` leaves it to the browser. */
export type Auth = "subprotocol" | "query" | "cookie";

export type State = "idle" | "connecting" | "open" | "waiting" | "needs-token" | "closed";

interface Common {
  /** Optional with `auth: "cookie"` alone. A token that is a string cannot be renewed: see `setToken()`. */
  token?: TokenSource | null;
  /** Default `subprotocol`. */
  auth?: Auth;
  /** For runtimes without one (Node before 22), and for tests. */
  WebSocket?: new (url: string, protocols?: string | string[]) => WebSocketLike;
  fetch?: typeof globalThis.fetch;
  /** Milliseconds of a clock that never goes back. */
  now?: () => number;
  setTimeout?: (callback: () => void, delayMs: number) => unknown;
  clearTimeout?: (timer: any) => void;
  /** 0 ≤ n < 1. */
  random?: () => number;
}

/** Either the whole URL of the endpoint, or the gateway's origin (in a page: its own) and the room. */
export type SignalingOptions = Common &
  (
    | { url: string | URL; gateway?: never; roomId?: never; prefix?: never }
    | {
        url?: never;
        gateway?: string;
        roomId: string;
        /** Default `/sphere`. */
        prefix?: string;
      }
  );

/** What the client uses of a WebSocket. */
export interface WebSocketLike {
  readonly readyState: number;
  readonly bufferedAmount: number;
  send(text: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: string, listener: (event: any) => void): void;
}

/** The account behind a signal, as the sidecar verified it. */
export interface SenderInfo {
  id: string;
  name: string;
  nick: string;
  profile: Record<string, unknown>;
  updatedAt: string | null;
}

export interface Participant {
  identity: string;
  name: string;
  accountId: string;
  account: SenderInfo;
  joinedAt: string;
  connectionIds: string[];
}

/** The first packet of every connection. */
export interface Welcome {
  userId: string;
  roomId: string;
  connectionId: string;
  message: string;
  timestamp: string;
  participants: Participant[];
  /** As `RTCConfiguration` takes them; absent where none is configured. */
  iceServers?: { urls: string | string[]; username?: string; credential?: string }[];
  heartbeatSeconds?: number;
}

export interface Signal<Data = any> {
  type: string;
  data: Data;
  to?: string;
  toConnection?: string;
  senderAccountId: string;
  senderConnectionId: string;
  senderInfo: SenderInfo;
}

export interface Peer {
  readonly accountId: string;
  readonly info: SenderInfo | null;
  readonly joinedAt: string | null;
  readonly connectionIds: ReadonlySet<string>;
}

export interface Presence {
  accountId: string;
  connectionId: string;
  info: SenderInfo | null;
  /** True where it happened while this client was away and was found out after a reconnect. */
  afterReconnect: boolean;
}

/** What a plain GET of the endpoint says a handshake would be answered. */
export interface Answer {
  /**
   * `ready`: would be let in (but for a full room or account, which a plain GET is not told). `token`: after a new
   * token. `stop`: no. `later`: the server is away, busy or full.
   */
  verdict: "ready" | "token" | "stop" | "later";
  /** The HTTP status; 0: nothing answered. */
  status: number;
  /** The server's code (`NOT_A_MEMBER`, `RATE_LIMITED` …), or `UNREACHABLE`, `TOKEN_SOURCE_FAILED`, `HTTP_<status>`. */
  code: string;
  message: string;
  detail?: string;
  traceId?: string;
  retryAfterMs?: number;
  /** With `MEMBER_TIMED_OUT`: when the person may come back (RFC 3339). */
  until?: string;
}

export interface Closed {
  reason:
    | "left"
    | "not-a-member"
    | "timed-out"
    | "no-such-room"
    | "origin-not-allowed"
    | "replaced"
    | "message-too-big"
    | "protocol-error"
    | "refused";
  /** For people. */
  message: string;
  /** A close code, or the code of a refused handshake. */
  code?: number | string;
  status?: number;
  /** With `timed-out`: when `connect()` makes sense again (RFC 3339). */
  until?: string;
}

export interface Cause {
  /** A close code, the code of an `Answer`, or `CONNECT_FAILED`: let in by the probe, and yet no WebSocket opened. */
  code: string;
  message: string;
}

export interface SignalingEvents {
  /** In the room, at first and after every reconnect. */
  welcome: Welcome;
  /** Every signal of another connection; `signal:<type>` for those of one type. */
  signal: Signal;
  "user-joined": Presence;
  "user-left": Presence;
  "connection-joined": Presence;
  "connection-left": Presence;
  /** After any change of who is here. */
  peers: ReadonlyMap<string, Peer>;
  /** The sidecar refused a packet of ours. */
  error: SignalingError;
  state: { state: State; previous: State; retryInMs?: number; cause?: Cause };
  /** A connection ended, or did not come about (`opened` false). What follows is told by `state`. */
  disconnected: { code: number; reason: string; opened: boolean };
  /** Why a handshake was refused, found out by the probe. */
  refused: Answer;
  /** The sidecar is about to restart and says when to come back. */
  draining: { reconnectAfterMs: number; message: string };
  "token-refreshed": { expiresAt: string | null };
  "refresh-failed": Error;
  /** Stopped for good. */
  closed: Closed;
  /** Every packet, for looking on; tokens are left out. */
  packet: { direction: "in" | "out"; packet: any; bytes: number; at: number };
}

type EventOf<Events, Type> = Type extends keyof Events ? Events[Type] : Type extends `signal:${string}` ? Signal : never;

export class Emitter<Events = Record<string, any>> {
  /** Returns the function that takes the listener off again. */
  on<Type extends (keyof Events & string) | `signal:${string}`>(
    type: Type,
    listener: (event: EventOf<Events, Type>) => void,
  ): () => void;
  once<Type extends (keyof Events & string) | `signal:${string}`>(
    type: Type,
    listener: (event: EventOf<Events, Type>) => void,
  ): () => void;
  off(type: string, listener: (event: any) => void): void;
  emit(type: string, event?: unknown): void;
}

/** `code`: `NOT_CONNECTED`, `BUFFER_FULL`, `PING_TIMEOUT`, `CLOSED` …, or one the sidecar sent. */
export class SignalingError extends Error {
  constructor(code: string, message: string, detail?: string);
  readonly code: string;
  readonly detail?: string;
  /** With `CLOSED`: why. */
  readonly closed?: Closed;
}

export class SignalingClient extends Emitter<SignalingEvents> {
  constructor(options: SignalingOptions);
  readonly state: State;
  readonly welcome: Welcome | null;
  readonly accountId: string | null;
  /** Changes with every reconnect. */
  readonly connectionId: string | null;
  readonly peers: ReadonlyMap<string, Peer>;
  readonly closed: Closed | null;
  peerOfConnection(connectionId: string): Peer | undefined;
  /** Starts. Resolves once in the room, rejects with `CLOSED` when the client stopped for good; may be ignored. */
  connect(): Promise<Welcome>;
  whenConnected(): Promise<Welcome>;
  /** Leaves the room and stops. */
  close(): void;
  /** To everyone else in the room, to one account, or to one connection. Throws while not connected. */
  send(type: string, data?: unknown, target?: { to?: string | null; toConnection?: string | null }): void;
  /** Milliseconds to the sidecar and back. */
  ping(): Promise<number>;
  setToken(token: TokenSource): void;
  /** Done by itself before a token expires, where `token` is a function. Resolves with the new expiry. */
  refreshToken(): Promise<string | null>;
  /** Asks without connecting. Never rejects. */
  probe(): Promise<Answer>;
}

/** What the client does after a close code: come back, come back with a new token, or stop. */
export function verdictOfClose(code: number): "retry" | "token" | "stop";

/** Types of call.js. */

import { Closed, Emitter, SenderInfo, SignalingClient } from "./signaling.js";

export interface Media {
  audio: boolean;
  video: boolean;
}

export interface CallOptions {
  signaling: SignalingClient;
  /** What the others get; null takes part without sending. */
  stream?: MediaStream | null;
  /** `iceServers` are used where the sidecar names none. */
  configuration?: RTCConfiguration;
  RTCPeerConnection?: typeof globalThis.RTCPeerConnection;
  setTimeout?: (callback: () => void, delayMs: number) => unknown;
  clearTimeout?: (timer: any) => void;
}

/** One other device in the call. */
export interface Remote {
  /** The id it goes by for as long as it is in the call. */
  readonly session: string;
  /** Account and session: tells one remote from every other. */
  readonly key: string;
  /** Where it is reachable at the moment. */
  readonly connectionId: string;
  readonly accountId: string;
  readonly account: Partial<SenderInfo> & { id: string };
  readonly streams: ReadonlySet<MediaStream>;
  /** What it says it is sending. */
  readonly media: Media;
  readonly state: RTCPeerConnectionState;
  readonly peerConnection: RTCPeerConnection;
  /** Of the media path, in milliseconds; null while there is none. */
  roundTripMs(): Promise<number | null>;
  /** Looks for a new path to it. Done by itself after failures and network changes. */
  restart(): void;
}

export interface CallEvents {
  joined: { remote: Remote };
  /** `hung-up`, `left` (the room, and did not come back), `unreachable` (no path found), `ended` (by us). */
  left: { remote: Remote; reason: "hung-up" | "left" | "unreachable" | "ended" };
  stream: { remote: Remote; stream: MediaStream };
  "stream-gone": { remote: Remote; stream: MediaStream };
  state: { remote: Remote; state: RTCPeerConnectionState };
  media: { remote: Remote; media: Media };
  ended: { reason: "hung-up" | "signaling-closed"; closed?: Closed };
  /** A description or candidate was not taken. */
  error: Error;
}

export class Call extends Emitter<CallEvents> {
  constructor(options: CallOptions);
  readonly state: "idle" | "active" | "ended";
  readonly session: string | null;
  readonly remotes: Remote[];
  readonly stream: MediaStream | null;
  readonly media: Media;
  /** Connects if need be and calls everyone who takes part. Rejects when the room cannot be entered. */
  start(): Promise<void>;
  setStream(stream: MediaStream | null): void;
  /** Mutes or unmutes, and tells the others. */
  setEnabled(kind: "audio" | "video", enabled: boolean): void;
  /** Leaves the call, not the room. */
  hangUp(): void;
}

/** The stream a person sends: camera and microphone, or a drawn picture and silence where there is none. */

import { colourOf, initialsOf } from "./people.js";
import { clockTime } from "./telling.js";

const WIDTH = 640;
const HEIGHT = 360;

const AUDIO = { echoCancellation: true, noiseSuppression: true };
const VIDEO = { width: { ideal: WIDTH }, height: { ideal: HEIGHT } };

/** Resolves with `{stream, drawn, why, stop}`; `why` says what kept the camera from being used, if anything. */
export async function openCamera({ name, id, drawn }) {
  const { tracks, why } = drawn ? { tracks: [], why: "" } : await askForDevices();
  const closers = tracks.map((track) => () => track.stop());
  const has = (kind) => tracks.some((track) => track.kind === kind);
  if (!has("audio")) tracks.push(silence(closers));
  const picture = has("video") ? null : drawnPicture({ name, id }, closers);
  if (picture) tracks.push(picture);
  const stop = () => closers.forEach((close) => close());
  return { stream: new MediaStream(tracks), drawn: picture !== null, why: picture && why, stop };
}

/** A machine may have a camera, a microphone, both or none; whoever said no is not asked again. */
async function askForDevices() {
  let why = "";
  for (const wish of [{ audio: AUDIO, video: VIDEO }, { video: VIDEO }, { audio: AUDIO }]) {
    try {
      return { tracks: (await navigator.mediaDevices.getUserMedia(wish)).getTracks(), why };
    } catch (error) {
      why ||= reasonFor(error);
      if (error.name === "NotAllowedError") break;
    }
  }
  return { tracks: [], why };
}

function reasonFor(error) {
  if (error.name === "NotAllowedError") return "The camera was not allowed";
  if (error.name === "NotFoundError") return "There is no camera here";
  if (error.name === "NotReadableError") return "Another program has the camera";
  return "The camera cannot be used";
}

function silence(closers) {
  const audio = new AudioContext();
  const [track] = audio.createMediaStreamDestination().stream.getAudioTracks();
  closers.push(() => track.stop(), () => audio.close());
  return track;
}

function drawnPicture({ name, id }, closers) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const context = canvas.getContext("2d");
  const startedAt = performance.now();
  const paint = () => draw(context, { name, id, seconds: (performance.now() - startedAt) / 1000 });
  paint();
  const ticker = new Worker("/demo/ticker.js");
  ticker.addEventListener("message", paint);
  const [track] = canvas.captureStream(15).getVideoTracks();
  closers.push(() => ticker.terminate(), () => track.stop());
  return track;
}

function draw(context, { name, id, seconds }) {
  const colour = colourOf(id);
  context.fillStyle = colour.deep;
  context.fillRect(0, 0, WIDTH, HEIGHT);
  for (let ring = 0; ring < 3; ring++) {
    const phase = (seconds / 3 + ring / 3) % 1;
    context.beginPath();
    context.arc(WIDTH / 2, HEIGHT / 2, 62 + phase * 150, 0, Math.PI * 2);
    context.strokeStyle = colour.plain;
    context.globalAlpha = (1 - phase) * 0.5;
    context.lineWidth = 3;
    context.stroke();
  }
  context.globalAlpha = 1;
  context.beginPath();
  context.arc(WIDTH / 2, HEIGHT / 2, 62, 0, Math.PI * 2);
  context.fillStyle = colour.plain;
  context.fill();
  context.fillStyle = "#fff";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = "600 48px system-ui, sans-serif";
  context.fillText(initialsOf(name), WIDTH / 2, HEIGHT / 2 + 2);
  context.font = "500 17px ui-monospace, monospace";
  context.globalAlpha = 0.75;
  context.fillText(clockTime(), WIDTH / 2, 32);
  context.globalAlpha = 1;
}

/** Line drawings on a 24 by 24 grid. */

export const MIC = "M12 3.5a3 3 0 0 0-3 3V11a3 3 0 0 0 6 0V6.5a3 3 0 0 0-3-3zM5 11a7 7 0 0 0 14 0M12 18v3";
export const MIC_OFF = "M4 4l16 16M9 9v2a3 3 0 0 0 4.5 2.6M15 11V6.5a3 3 0 0 0-6-.3M5 11a7 7 0 0 0 10.8 5.9M19 11a7 7 0 0 1-.6 2.8M12 18v3";
export const CAM = "M4 7.5h9.5v9H4zM13.5 11l6-3v8l-6-3";
export const CAM_OFF = "M4 4l16 16M10.5 7.5h3v3m0 3v3H4v-9h3.5M13.5 11l6-3v8l-3-1.5";

export function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

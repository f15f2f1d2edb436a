/** The buttons under the pictures, and the menu that opens another tab. */

import { CAM, CAM_OFF, MIC, MIC_OFF, icon } from "./icons.js";
import { avatar, displayName, make } from "./people.js";

/** `onChange` gets what is sent now, each time it changes. */
export function bindToggles({ mic, cam, call, onChange }) {
  const bind = (button, kind, on, off) => {
    const paint = () => {
      const enabled = call.media[kind];
      const { path, label } = enabled ? on : off;
      button.replaceChildren(icon(path), make("span", {}, label));
      button.hidden = false;
      button.classList.toggle("off", !enabled);
      onChange(call.media);
    };
    button.onclick = () => {
      call.setEnabled(kind, !call.media[kind]);
      paint();
    };
    paint();
  };
  bind(mic, "audio", { path: MIC, label: "Mute" }, { path: MIC_OFF, label: "Unmute" });
  bind(cam, "video", { path: CAM, label: "Camera off" }, { path: CAM_OFF, label: "Camera on" });
}

/** Links that join the same room as somebody else; whoever may not is told so beforehand. */
export function listInvitees(list, { people, room }) {
  list.replaceChildren(...people.map((person) => {
    const url = `/?${new URLSearchParams({ room: room.id, as: person.id, join: "1" })}`;
    const state = room.members.find(({ account }) => account === person.id)?.state;
    const hint = state === "active" ? "" : `${state ?? "not a member"}: will be refused`;
    return make("li", {}, make("a", { href: url, target: "_blank" },
      avatar(person.id, displayName(person)), make("span", {}, displayName(person)), make("small", {}, hint)));
  }));
}

/** A menu in a `<details>` closes as menus do: by Escape, by a choice, by a click beside it. */
export function closeLikeAMenu(details) {
  addEventListener("click", ({ target }) => {
    if (details.open && (!details.contains(target) || target.closest("a"))) details.open = false;
  });
  addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || !details.open) return;
    details.open = false;
    details.querySelector("summary").focus();
  });
}

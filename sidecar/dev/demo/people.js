/** How people look on this page: a colour and initials each, and small pieces of the page made for them. */

export function colourOf(id) {
  let hash = 0;
  for (const char of String(id)) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  const hue = hash % 360;
  return { plain: `hsl(${hue} 45% 46%)`, deep: `hsl(${hue} 32% 17%)` };
}

export function initialsOf(name) {
  const words = String(name || "?").replace(/\(.*|·.*/, "").trim().split(/\s+/);
  const letters = words.length > 1 ? words[0][0] + words.at(-1)[0] : words[0].slice(0, 2);
  return letters.toUpperCase();
}

export function displayName(person) {
  return person?.nick || person?.name || "Somebody";
}

/** What the others in a room see of a member: the room's nick before the account's. */
export function nameInRoom(person, room) {
  return room.members.find(({ account }) => account === person.id)?.nick || displayName(person);
}

/** An element from a tag, properties and children; strings become text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function avatar(id, name) {
  const element = make("span", { class: "avatar", "aria-hidden": "true" }, initialsOf(name));
  element.style.setProperty("--colour", colourOf(id).plain);
  return element;
}

export function shortId(id) {
  return String(id).slice(0, 4);
}

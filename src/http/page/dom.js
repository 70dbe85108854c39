// DOM nodes by one call.

/** An element with attributes, listeners (on…) and children. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  fill(node, children);
  return node;
}

/** Appends children; one at a time, since a call has no room for a hundred thousand arguments. */
export function fill(node, children) {
  for (const child of children) if (child != null) node.append(child);
}

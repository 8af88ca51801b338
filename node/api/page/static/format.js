// Numbers, times and names as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}

export const count = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Seconds as 45 s, 3 min, 2.5 h, 4 d. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export const ago = (unix) => {
  const seconds = Date.now() / 1000 - unix;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
};

export const moment = (unix) => new Date(unix * 1000).toLocaleString();

/** A long id by its two ends, where there is no room for it. */
export const short = (id, head = 8, tail = 6) =>
  id.length > head + tail + 1 ? `${id.slice(0, head)}…${id.slice(-tail)}` : id;

/** How much of a job is done: a share from 0 to 1, or null while nobody knows. */
export function share(progress) {
  if (!progress?.total) return null;
  return Math.min(1, progress.done / progress.total);
}

export function amount(progress) {
  const show = progress.unit === "B" ? size : (number) => number.toLocaleString("en");
  const noun = progress.unit === "B" ? "" : ` ${progress.unit}`;
  const total = progress.total == null ? "" : ` of ${show(progress.total)}`;
  return `${show(progress.done)}${total}${noun}`;
}

/** A command line that a shell takes as it stands: the words quoted as they need it. */
export function command(...words) {
  const quoted = words.flat().filter((word) => word !== "" && word != null).map((word) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
  return ["allod", ...quoted].join(" ");
}

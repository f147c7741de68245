/**
 * How a line of a log, as `ops.run.read_log` gives it, becomes what the viewer shows.
 * Pure functions; nothing here asks the server or touches the page.
 */

const { DateTime } = luxon;

/** What Odoo begins a line with and the viewer shows already: time, process, level, database. */
const ODOO_PREFIX = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ [A-Z]+ \S+ (?=\S+: )/;

/**
 * Cut a message into pieces, those that match the search marked.
 *
 * @param {string} message
 * @param {string} search plain text, any case; empty for none
 * @returns {{text: string, hit: boolean}[]}
 */
export function splitMatches(message, search) {
    if (!search) {
        return [{ text: message, hit: false }];
    }
    const parts = [];
    const haystack = message.toLowerCase();
    const needle = search.toLowerCase();
    // Some letters grow when lowered; then positions differ and marking would lie.
    if (haystack.length !== message.length) {
        return [{ text: message, hit: false }];
    }
    let from = 0;
    for (let at = haystack.indexOf(needle); at >= 0; at = haystack.indexOf(needle, from)) {
        if (at > from) {
            parts.push({ text: message.slice(from, at), hit: false });
        }
        from = at + needle.length;
        parts.push({ text: message.slice(at, from), hit: true });
    }
    if (from < message.length) {
        parts.push({ text: message.slice(from), hit: false });
    }
    return parts;
}

/** Colours and weight (SGR), and every other escape sequence, which shows nothing. */
const ESCAPE =
    // eslint-disable-next-line no-control-regex
    /\x1b\[([0-9;]*)m|\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])/g;

/** What the codes of one SGR sequence make of a style. */
function restyle(style, codes) {
    let { bold, color } = style;
    for (const code of codes.split(";").map(Number)) {
        if (code === 0) {
            bold = false;
            color = null;
        } else if (code === 1 || code === 22) {
            bold = code === 1;
        } else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) {
            // The bright ones look like the others.
            color = code % 10;
        } else if (code === 39) {
            color = null;
        } else if (code === 38 || code === 48) {
            // The numbers that follow name a colour of a larger palette.
            break;
        }
    }
    return { bold, color };
}

/**
 * Cut a line with colour codes into pieces of one style each.
 *
 * @param {string} text
 * @param {number} skip so many visible characters are left out at the beginning
 * @returns {{text: string, hit: boolean, style: string}[]} `style` holds class names
 */
export function splitColors(text, skip) {
    const parts = [];
    let style = { bold: false, color: null };
    let from = 0;
    const add = (piece) => {
        const shown = piece.slice(skip);
        skip -= Math.min(skip, piece.length);
        if (shown) {
            const bold = style.bold ? "fw-bold" : "";
            const color = style.color === null ? "" : `o_ops_ansi_${style.color}`;
            parts.push({ text: shown, hit: false, style: `${bold} ${color}`.trim() });
        }
    };
    for (const escape of text.matchAll(ESCAPE)) {
        add(text.slice(from, escape.index));
        from = escape.index + escape[0].length;
        if (escape[1] !== undefined) {
            style = restyle(style, escape[1]);
        }
    }
    add(text.slice(from));
    return parts;
}

/**
 * @param {Object} line seq, timestamp (UTC, microseconds), log_level, message, step, logger,
 *     ansi (the message with its colour codes, where it has some)
 * @param {string} search
 * @returns {Object} the line with `time` (HH:MM:SS.mmm in the user's zone), `title`, `prefix`
 *     (may be hidden) and `parts`. A search looks into the prefix too; then it is no prefix.
 */
export function presentLine(line, search) {
    const details = [`${line.timestamp.replace("T", " ").replace("Z", "")} UTC`];
    for (const detail of [line.step, line.logger, line.stream]) {
        if (detail) {
            details.push(detail);
        }
    }
    const message = line.message || "";
    const prefix = search ? "" : ODOO_PREFIX.exec(message)?.[0] || "";
    return {
        ...line,
        prefix,
        time: DateTime.fromISO(line.timestamp).toFormat("HH:mm:ss.SSS"),
        title: details.join("\n"),
        parts:
            line.ansi && !search
                ? splitColors(line.ansi, prefix.length)
                : splitMatches(message.slice(prefix.length), search),
    };
}

/**
 * First line of the first block of errors behind the block that `current` lies in: the lines of
 * one traceback count as one error.
 *
 * @param {{seq: number}[]} errors in order, all behind `current`
 * @param {number} current
 * @returns {{found: number|null, last: number}} `last` is where to read on when nothing is found
 */
export function nextErrorBlock(errors, current) {
    let last = current;
    for (const { seq } of errors) {
        if (seq !== last + 1 || current === 0) {
            return { found: seq, last: seq };
        }
        last = seq;
    }
    return { found: null, last };
}

/** 4.2 s, 1 min 05 s, 2 h 03 min */
export function formatSeconds(seconds) {
    if (seconds < 60) {
        return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
    }
    const whole = Math.round(seconds);
    const pad = (number) => String(number).padStart(2, "0");
    if (whole < 3600) {
        return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
    }
    return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} min`;
}

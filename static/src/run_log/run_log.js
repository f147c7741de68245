/**
 * The log of a run: live while it runs, the same page when it has ended.
 *
 * The viewer asks `ops.run.read_log` for pages from its own offset, each second until the run
 * has ended; nothing is pushed to it. It keeps a window of at most WINDOW lines in the page,
 * however long the log is: what is read at one end is dropped at the other. Without a filter
 * lines are numbered without gaps, so any part of the log is one request away; with a filter
 * the matches are read from the first one on.
 */

import { Component, markRaw, onWillStart, onWillUnmount, onWillUpdateProps } from "@odoo/owl";
import { useEffect, useRef, useState } from "@odoo/owl";
import { browser } from "@web/core/browser/browser";
import { _t } from "@web/core/l10n/translation";
import { ConnectionLostError } from "@web/core/network/rpc";
import { registry } from "@web/core/registry";
import { useService } from "@web/core/utils/hooks";
import { useDebounced } from "@web/core/utils/timing";
import { standardWidgetProps } from "@web/views/widgets/standard_widget_props";
import { formatSeconds, nextErrorBlock, presentLine } from "./log_line";

const PAGE = 500;
const WINDOW = 2000;
const POLL_MS = 1000;
// The outline counts lines in the database; once in so many polls is enough.
const POLLS_PER_OUTLINE = 3;
// Lines shown before the one that was asked for.
const LEAD = 40;
const NEAR_EDGE_PX = 200;

export class RunLog extends Component {
    static template = "odooops.RunLog";
    static props = { ...standardWidgetProps };

    setup() {
        this.orm = useService("orm");
        this.notification = useService("notification");
        this.scroller = useRef("scroller");
        this.state = useState(this.blank());
        this.prefs = useState({ wrap: true, raw: false });
        // Counts the windows: an answer that belongs to an older one is dropped.
        this.generation = 0;
        this.polls = 0;
        this.afterPatch = null;
        this.searchSoon = useDebounced((text) => this.filter({ search: text }), 300);
        onWillStart(() => this.start(this.props.record.resId));
        onWillUpdateProps((next) => {
            if (next.record.resId !== this.resId) {
                Object.assign(this.state, this.blank());
                return this.start(next.record.resId);
            }
        });
        onWillUnmount(() => this.stop());
        useEffect(
            () => {
                this.afterPatch?.();
                this.afterPatch = null;
            },
            () => [this.state.version]
        );
    }

    blank() {
        return {
            lines: [],
            version: 0,
            search: "",
            levels: [],
            step: "",
            follow: false,
            target: 0,
            atEnd: false,
            loading: false,
            offline: false,
            status: "queued",
            ended: false,
            lastSeq: 0,
            counts: {},
            steps: [],
            logArtifactId: false,
        };
    }

    // -- what the template asks -----------------------------------------------------------

    get levels() {
        return [
            { name: "debug", label: _t("Debug") },
            { name: "info", label: _t("Info") },
            { name: "warn", label: _t("Warning") },
            { name: "error", label: _t("Error") },
        ].filter(({ name }) => this.state.counts[name]);
    }
    get isFiltered() {
        const { search, levels, step } = this.state;
        return Boolean(search || levels.length || step);
    }
    /** Names to choose from: two parts of a log may bear the same one. */
    get stepNames() {
        return [...new Set(this.state.steps.map((step) => step.name))];
    }
    get first() {
        return this.state.lines[0]?.seq || 0;
    }
    get last() {
        return this.state.lines.at(-1)?.seq || 0;
    }
    get hasEarlier() {
        return this.state.lines.length > 0 && (this.isFiltered ? this.dropped : this.first > 1);
    }
    get emptyText() {
        if (this.state.loading) {
            return _t("Reading…");
        }
        if (this.isFiltered) {
            return _t("No line matches.");
        }
        if (this.state.ended) {
            return _t("This run left no log.");
        }
        return this.state.status === "running"
            ? _t("Waiting for the first line…")
            : _t("The log appears here when a worker has started the run.");
    }
    seconds(step) {
        return step.seconds === null ? "" : formatSeconds(step.seconds);
    }
    isStepHead(index) {
        const { lines } = this.state;
        return lines[index].step && lines[index].step !== lines[index - 1]?.step;
    }

    // -- reading --------------------------------------------------------------------------

    async start(resId) {
        this.stop();
        this.resId = resId;
        this.generation++;
        if (!resId) {
            return;
        }
        await this.readOutline();
        const linked = Number(/[#&]line=(\d+)/.exec(browser.location.hash)?.[1] || 0);
        if (linked && linked <= this.state.lastSeq) {
            await this.open({ line: linked });
        } else if (this.state.status === "failed" && this.state.counts.error) {
            await this.nextError();
        } else {
            await this.open({ tail: !this.state.ended });
        }
        this.schedule();
    }

    stop() {
        browser.clearTimeout(this.timer);
        this.generation++;
    }

    schedule() {
        browser.clearTimeout(this.timer);
        if (!(this.state.ended && this.state.atEnd)) {
            this.timer = browser.setTimeout(() => this.poll(), POLL_MS);
        }
    }

    /** Read on, or only look how far the run is while an earlier part is on the screen. */
    async poll() {
        const generation = this.generation;
        const wasEnded = this.state.ended;
        try {
            if (this.state.atEnd && !document.hidden) {
                await this.readOn(generation);
            }
            const due = this.polls++ % POLLS_PER_OUTLINE === 0 && !wasEnded;
            if (due || this.state.ended !== wasEnded) {
                await this.readOutline(generation);
            }
            this.state.offline = false;
        } catch (error) {
            if (!(error instanceof ConnectionLostError)) {
                throw error;
            }
            this.state.offline = true;
        }
        if (generation === this.generation) {
            this.schedule();
        }
    }

    async readOutline(generation = this.generation) {
        const outline = await this.orm.silent.call("ops.run", "read_log_outline", [[this.resId]]);
        if (generation !== this.generation) {
            return;
        }
        this.state.lastSeq = outline.last_seq;
        this.state.counts = outline.levels;
        this.state.steps = outline.steps;
        this.state.logArtifactId = outline.log_artifact_id;
        // The end of a log that is being read to its end is known from the lines themselves.
        if (!this.state.atEnd) {
            this.state.ended = outline.ended;
            this.state.status = outline.status;
        }
    }

    async fetch(after, limit) {
        const { search, levels, step } = this.state;
        const page = await this.orm.silent.call("ops.run", "read_log", [
            [this.resId],
            after,
            limit,
            search || null,
            levels.length ? levels : null,
            step || null,
        ]);
        page.lines = page.lines.map((line) => markRaw(presentLine(line, search)));
        return page;
    }

    /**
     * Show another part of the log.
     *
     * @param {{line?: number, tail?: boolean}} where around a line, the end, or the beginning
     */
    async open({ line = 0, tail = false } = {}) {
        const generation = ++this.generation;
        let after = 0;
        if (line) {
            after = Math.max(0, line - 1 - LEAD);
        } else if (tail && !this.isFiltered) {
            after = Math.max(0, this.state.lastSeq - PAGE);
        }
        this.state.loading = true;
        const page = await this.fetch(after, PAGE);
        if (generation !== this.generation) {
            return;
        }
        this.state.loading = false;
        this.dropped = false;
        this.state.lines = page.lines;
        this.state.target = line || this.state.target;
        this.state.follow = tail;
        this.noteEnd(page);
        this.patched(() => {
            if (line) {
                this.scrollToLine(line);
            } else {
                this.scrollTo(tail ? this.scroller.el.scrollHeight : 0);
            }
        });
        this.schedule();
    }

    noteEnd(page) {
        this.state.atEnd = !page.more;
        if (!page.more) {
            this.state.ended = page.ended;
            this.state.status = page.status;
        }
        this.state.lastSeq = Math.max(this.state.lastSeq, page.lines.at(-1)?.seq || 0);
    }

    /** Append what has come since; a reader who scrolled up keeps what is on the screen. */
    async readOn(generation) {
        let page;
        do {
            page = await this.fetch(this.last, PAGE);
            if (generation !== this.generation) {
                return;
            }
            if (page.lines.length && !this.state.follow) {
                if (this.state.lines.length + page.lines.length > WINDOW) {
                    this.state.atEnd = false;
                    return;
                }
            }
            this.append(page);
        } while (page.more && this.state.follow);
    }

    append(page) {
        if (page.lines.length) {
            const lines = [...this.state.lines, ...page.lines];
            this.dropped = this.dropped || lines.length > WINDOW;
            this.state.lines = lines.slice(-WINDOW);
            const anchor = this.state.follow ? null : this.anchor();
            this.patched(() => this.restore(anchor));
        }
        this.noteEnd(page);
    }

    async readLater() {
        await this.exclusively(async (generation) => {
            const page = await this.fetch(this.last, PAGE);
            if (generation === this.generation) {
                this.append(page);
            }
        });
    }

    async readEarlier() {
        if (this.isFiltered) {
            return this.open();
        }
        await this.exclusively(async (generation) => {
            const first = this.first;
            const page = await this.fetch(Math.max(0, first - 1 - PAGE), Math.min(PAGE, first - 1));
            if (generation !== this.generation) {
                return;
            }
            const lines = [...page.lines, ...this.state.lines];
            if (lines.length > WINDOW) {
                this.state.atEnd = false;
            }
            this.state.lines = lines.slice(0, WINDOW);
            const anchor = this.anchor();
            this.patched(() => this.restore(anchor));
        });
    }

    /** Scrolling asks often; one question at a time is enough. */
    async exclusively(work) {
        if (this.state.loading) {
            return;
        }
        this.state.loading = true;
        try {
            await work(this.generation);
        } finally {
            this.state.loading = false;
        }
    }

    // -- what people do -------------------------------------------------------------------

    filter(changes) {
        Object.assign(this.state, changes);
        return this.open({ tail: !this.state.ended && !this.isFiltered });
    }

    toggleLevel(level) {
        const { levels } = this.state;
        const next = levels.includes(level) ? levels.filter((l) => l !== level) : [...levels, level];
        return this.filter({ levels: next });
    }

    async goTo(line) {
        if (this.isFiltered) {
            Object.assign(this.state, { search: "", levels: [], step: "" });
            return this.open({ line });
        }
        if (line >= this.first && line <= this.last) {
            Object.assign(this.state, { target: line, follow: false });
            return this.scrollToLine(line);
        }
        return this.open({ line });
    }

    /** The next error behind the line last gone to; behind the last one, the first again. */
    async nextError() {
        let current = this.state.target;
        for (;;) {
            const page = await this.orm.silent.call("ops.run", "read_log", [
                [this.resId],
                current,
                PAGE,
                null,
                ["error"],
            ]);
            const { found, last } = nextErrorBlock(page.lines, current);
            if (found) {
                return this.goTo(found);
            }
            if (!page.more) {
                break;
            }
            current = last;
        }
        if (this.state.target) {
            this.state.target = 0;
            this.notification.add(_t("That was the last error; on to the first."), {
                type: "info",
            });
            return this.nextError();
        }
    }

    async toggleFollow() {
        if (this.state.follow) {
            this.state.follow = false;
        } else {
            await this.open({ tail: true });
        }
    }

    async copyLink(ev) {
        const row = ev.target.closest(".o_ops_log_number")?.closest("[data-seq]");
        if (!row) {
            return;
        }
        const { origin, pathname, search } = browser.location;
        const url = `${pathname}${search}#line=${row.dataset.seq}`;
        this.state.target = Number(row.dataset.seq);
        browser.history.replaceState(browser.history.state, "", url);
        try {
            await browser.navigator.clipboard.writeText(origin + url);
        } catch {
            // Without https, or the user's consent, there is no clipboard; the address bar has it.
            this.notification.add(_t("The address of this page now leads to line %s.", row.dataset.seq));
            return;
        }
        this.notification.add(_t("Link to line %s copied.", row.dataset.seq), { type: "success" });
    }

    onScroll() {
        const { scrollTop, scrollHeight, clientHeight } = this.scroller.el;
        const below = scrollHeight - scrollTop - clientHeight;
        // Only a reader moves up; new lines below do not end the following.
        if (scrollTop < this.top - 1) {
            this.state.follow = false;
        } else if (below < 30 && this.state.atEnd && !this.state.ended && !this.isFiltered) {
            this.state.follow = true;
        }
        this.top = scrollTop;
        if (scrollTop < NEAR_EDGE_PX && this.hasEarlier && !this.isFiltered) {
            this.readEarlier();
        } else if (below < NEAR_EDGE_PX && !this.state.atEnd) {
            this.readLater();
        }
    }

    // -- the place on the screen ----------------------------------------------------------

    patched(action) {
        this.afterPatch = action;
        this.state.version++;
    }

    scrollTo(top) {
        this.scroller.el.scrollTop = top;
        this.top = this.scroller.el.scrollTop;
    }

    row(line) {
        return this.scroller.el?.querySelector(`[data-seq="${line}"]`);
    }

    scrollToLine(line) {
        const row = this.row(line);
        if (row) {
            const top = row.offsetTop - this.scroller.el.clientHeight / 6;
            this.scrollTo(Math.max(0, top));
        }
    }

    /** The line at the top of the screen, to find it again when lines above it change. */
    anchor() {
        const scroller = this.scroller.el;
        for (const row of scroller?.querySelectorAll("[data-seq]") || []) {
            if (row.offsetTop + row.offsetHeight > scroller.scrollTop) {
                return { seq: row.dataset.seq, above: row.offsetTop - scroller.scrollTop };
            }
        }
        return null;
    }

    restore(anchor) {
        const scroller = this.scroller.el;
        if (!scroller) {
            return;
        }
        if (this.state.follow) {
            this.scrollTo(scroller.scrollHeight);
        } else if (anchor && this.row(anchor.seq)) {
            this.scrollTo(this.row(anchor.seq).offsetTop - anchor.above);
        }
    }
}

registry.category("view_widgets").add("ops_run_log", { component: RunLog });

/** Small fields of the console: durations that tick, ages, short hashes, JSON one can read. */

import { Component, onWillUnmount, useState } from "@odoo/owl";
import { browser } from "@web/core/browser/browser";
import { _t } from "@web/core/l10n/translation";
import { registry } from "@web/core/registry";
import { useService } from "@web/core/utils/hooks";
import { standardFieldProps } from "@web/views/fields/standard_field_props";
import { formatSeconds } from "../run_log/log_line";

const { DateTime } = luxon;

/** A clock that renders its component again every second. */
function useClock() {
    const clock = useState({ now: Date.now() });
    const timer = browser.setInterval(() => {
        clock.now = Date.now();
    }, 1000);
    onWillUnmount(() => browser.clearInterval(timer));
    return clock;
}

/** Seconds from start to end as text; while the run goes on, up to now. */
export class OpsDurationField extends Component {
    static template = "odooops.Text";
    static props = { ...standardFieldProps };
    setup() {
        this.clock = useClock();
    }
    get text() {
        const { started_at: start, finished_at: end } = this.props.record.data;
        const known = this.props.record.data[this.props.name];
        if (!start && !known) {
            return "";
        }
        // The screen's clock may differ from the server's: never show less than it said.
        const passed = start && !end ? (this.clock.now - start.toMillis()) / 1000 : known;
        return formatSeconds(Math.max(0, passed, known));
    }
}

/** How long ago, with the exact time as tooltip. */
export class OpsAgoField extends Component {
    static template = "odooops.Text";
    static props = { ...standardFieldProps };
    setup() {
        this.clock = useClock();
    }
    get value() {
        return this.props.record.data[this.props.name];
    }
    get text() {
        const age = this.value ? (this.clock.now - this.value.toMillis()) / 1000 : 0;
        if (!this.value) {
            return "";
        }
        return age < 60 ? _t("just now") : this.value.toRelative({ base: DateTime.now() });
    }
    get title() {
        return this.value ? this.value.toFormat("yyyy-MM-dd HH:mm:ss") : "";
    }
}

/** The beginning of a hash, the whole as tooltip. */
export class OpsShortHashField extends Component {
    static template = "odooops.Text";
    static props = { ...standardFieldProps };
    get title() {
        return this.props.record.data[this.props.name] || "";
    }
    get text() {
        return this.title.replace(/^sha256:/, "").slice(0, 12);
    }
}

/** A JSON value over several lines. */
export class OpsJsonField extends Component {
    static template = "odooops.Json";
    static props = { ...standardFieldProps };
    get text() {
        return JSON.stringify(this.props.record.data[this.props.name] || {}, null, 2);
    }
}

/** The last runs of a project as coloured bars, oldest first; a click opens the run. */
export class OpsRunStripField extends Component {
    static template = "odooops.RunStrip";
    static props = { ...standardFieldProps };
    setup() {
        this.action = useService("action");
    }
    get runs() {
        return this.props.record.data[this.props.name] || [];
    }
    open(run) {
        return this.action.doAction({
            type: "ir.actions.act_window",
            res_model: "ops.run",
            res_id: run.id,
            views: [[false, "form"]],
        });
    }
}

const fields = registry.category("fields");
fields.add("ops_duration", {
    component: OpsDurationField,
    displayName: _t("Duration"),
    supportedTypes: ["float"],
    fieldDependencies: [
        { name: "started_at", type: "datetime" },
        { name: "finished_at", type: "datetime" },
    ],
});
fields.add("ops_ago", {
    component: OpsAgoField,
    displayName: _t("How long ago"),
    supportedTypes: ["datetime"],
});
fields.add("ops_short_hash", {
    component: OpsShortHashField,
    displayName: _t("Short hash"),
    supportedTypes: ["char"],
});
fields.add("ops_json", {
    component: OpsJsonField,
    displayName: _t("JSON"),
    supportedTypes: ["json"],
});
fields.add("ops_run_strip", {
    component: OpsRunStripField,
    displayName: _t("Last runs"),
    supportedTypes: ["json"],
});

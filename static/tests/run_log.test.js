/** The log viewer, fed by a server that keeps twelve lines of three steps. */

import { describe, expect, test } from "@odoo/hoot";
import { click, queryAllTexts, select } from "@odoo/hoot-dom";
import { animationFrame, runAllTimers } from "@odoo/hoot-mock";
import { defineModels, mountView, models, onRpc } from "@web/../tests/web_test_helpers";
import { splitColors } from "@odooops/run_log/log_line";

describe.current.tags("desktop");

const MARKUP = "<img src=x onerror=\"document.title = 'owned'\"/>";
const STEPS = ["Checkout", "Test", "Pack"];
const LINES = Array.from({ length: 12 }, (_, index) => ({
    seq: index + 1,
    timestamp: `2026-01-05T09:00:${String(index).padStart(2, "0")}.000000Z`,
    log_level: index === 6 ? "error" : "info",
    message: index === 5 ? MARKUP : `line ${index + 1}`,
    step: STEPS[Math.floor(index / 4)],
    ansi: null,
}));

class OpsRun extends models.Model {
    _name = "ops.run";
    _records = [{ id: 1 }];
}

defineModels([OpsRun]);

/** Show the log; returns what the viewer asks the server for, as it comes. */
async function mountLog(outline = {}) {
    const asked = [];
    onRpc("ops.run", "read_log_outline", () => ({
        last_seq: LINES.length,
        levels: { info: 11, error: 1 },
        steps: STEPS.map((name, index) => ({ name, seq: 4 * index + 1, seconds: 4 })),
        log_artifact_id: false,
        status: "succeeded",
        ended: true,
        ...outline,
    }));
    onRpc("ops.run", "read_log", ({ args }) => {
        const [, after, limit, search, levels, step] = args;
        asked.push({ search, levels, step });
        const lines = LINES.filter(
            (line) =>
                line.seq > after &&
                (!search || line.message.includes(search)) &&
                (!levels || levels.includes(line.log_level)) &&
                (!step || line.step === step)
        ).slice(0, limit);
        return { lines, next_after: 0, more: false, status: "succeeded", ended: true };
    });
    await mountView({
        type: "form",
        resModel: "ops.run",
        resId: 1,
        arch: `<form><widget name="ops_run_log"/></form>`,
    });
    return asked;
}

async function chooseStep(name) {
    await click(".o_ops_log_step_select");
    await select(name);
    await animationFrame();
}

test("the whole log is shown until a step is chosen", async () => {
    const asked = await mountLog();
    expect(queryAllTexts(".o_ops_log_step_select option")).toEqual(["All steps", ...STEPS]);
    expect(".o_ops_log_step_select").toHaveValue("");
    expect(".o_ops_log_line").toHaveCount(12);
    expect(asked).toEqual([{ search: null, levels: null, step: null }]);
});

test("a step shows its lines only, by their numbers in the whole log", async () => {
    const asked = await mountLog();
    await chooseStep("Pack");
    expect(asked.at(-1)).toEqual({ search: null, levels: null, step: "Pack" });
    expect(queryAllTexts(".o_ops_log_number")).toEqual(["9", "10", "11", "12"]);
    expect(queryAllTexts(".o_ops_log_step")).toEqual(["Pack"]);
    await chooseStep("");
    expect(".o_ops_log_line").toHaveCount(12);
});

test("step, level and words are asked for together", async () => {
    const asked = await mountLog();
    await chooseStep("Test");
    await click(".o_ops_log_level_button[data-level=error]");
    await animationFrame();
    expect(asked.at(-1)).toEqual({ search: null, levels: ["error"], step: "Test" });
    expect(queryAllTexts(".o_ops_log_number")).toEqual(["7"]);
    await chooseStep("Checkout");
    expect(".o_ops_log_empty").toHaveText("No line matches.");
});

test("going to a step or an error leaves the filter", async () => {
    await mountLog();
    await chooseStep("Pack");
    await click(".o_ops_log_steps button:contains(Checkout)");
    await animationFrame();
    await runAllTimers();
    expect(".o_ops_log_step_select").toHaveValue("");
    expect(".o_ops_log_line").toHaveCount(12);
    await chooseStep("Pack");
    await click(".o_ops_log_next_error");
    await animationFrame();
    await runAllTimers();
    expect(".o_ops_log_step_select").toHaveValue("");
    expect(".o_ops_log_target .o_ops_log_number").toHaveText("7");
});

test("a log without steps offers none", async () => {
    await mountLog({ steps: [] });
    expect(".o_ops_log_step_select").toHaveCount(0);
});

test("markup in a line, a step or a class of colours is text", async () => {
    await mountLog({ steps: [{ name: MARKUP, seq: 1, seconds: null }] });
    expect(".o_ops_log img").toHaveCount(0);
    expect(queryAllTexts(".o_ops_log_message")[5]).toBe(MARKUP);
    expect(queryAllTexts(".o_ops_log_step_select option")[1]).toBe(MARKUP);
    const parts = splitColors(`\x1b[31m${MARKUP}\x1b[38;5;9" onclick="x m\x1b]8;;javascript:1\x07go`, 0);
    expect(parts[0]).toEqual({ text: MARKUP, hit: false, style: "o_ops_ansi_1" });
    expect(parts.map((part) => part.style).join(" ")).not.toInclude("onclick");
    expect(parts.at(-1).text).toBe("go");
});

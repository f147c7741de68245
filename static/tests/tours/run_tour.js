import { registry } from "@web/core/registry";

const current = (status) => `.o_statusbar_status .o_arrow_button_current:contains(${status})`;

/**
 * From a failed run to a repaired one: find the run, find the line, run it again, watch it end.
 * The test plays the worker meanwhile; the page is not loaded again.
 */
registry.category("web_tour.tours").add("odooops_run", {
    url: "/odoo/ops-runs",
    steps: () => [
        {
            content: "Open the failed run",
            trigger: ".o_kanban_group:contains(Failed) .o_ops_run_card:contains(tour-shop #)",
            run: "click",
        },
        {
            content: "It says what failed",
            trigger: ".o_ops_failure:contains(TestBooking.test_overlap):contains(tests_failed)",
        },
        {
            content: "The log is open at the first error",
            trigger: ".o_ops_log_target[data-level=error]:contains(FAIL: TestBooking)",
        },
        {
            content: "Search for the failing line",
            trigger: ".o_ops_log_search",
            run: "edit validationerror not",
        },
        {
            content: "Only the line that matches is left, the match marked",
            trigger: ".o_ops_log_line mark:contains(ValidationError not)",
            run() {
                const lines = document.querySelectorAll(".o_ops_log_line");
                if (lines.length !== 1) {
                    throw new Error(`the search left ${lines.length} lines`);
                }
            },
        },
        {
            content: "Read on from there: the next error is another block",
            trigger: ".o_ops_log_next_error",
            run: "click",
        },
        {
            content: "The filter is gone and the last error is marked",
            trigger: ".o_ops_log_target:contains(1 of 9 tests failed)",
        },
        {
            content: "Run it again",
            trigger: "button[name=action_restart]",
            run: "click",
        },
        {
            content: "The new run waits and says why",
            trigger: `.o_form_view:has(${current("Queued")}) .alert-warning:contains(worker)`,
        },
        {
            content: "Its log comes in by itself",
            trigger: ".o_ops_log_line:contains(9 passed)",
        },
        {
            content: "And its end is seen without loading the page again",
            trigger: current("Succeeded"),
        },
        {
            content: "It names the run it repeats",
            trigger: ".o_field_widget[name=retry_of]:contains(tour-shop #)",
        },
    ],
});

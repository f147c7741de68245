/**
 * Screens that stay true while runs go on: kanban, list and form ask every few seconds whether
 * something moved, and load again only then. Polling is the truth here; nothing is pushed.
 */

import { onMounted, onWillUnmount } from "@odoo/owl";
import { browser } from "@web/core/browser/browser";
import { ConnectionLostError } from "@web/core/network/rpc";
import { registry } from "@web/core/registry";
import { useService } from "@web/core/utils/hooks";
import { formView } from "@web/views/form/form_view";
import { kanbanView } from "@web/views/kanban/kanban_view";
import { listView } from "@web/views/list/list_view";

const POLL_MS = 3000;
const RUN_POLL_MS = 1500;
// With active runs a screen is loaded again at least so often: reasons for waiting change too.
const RELOAD_MS = 15000;
const ACTIVE = ["queued", "claimed", "running"];
const RUN_FACTS = ["status", "waiting_for", "cancel_requested_at", "event_seq", "artifact_count"];

/** Call `work` again and again while the component is mounted and its page is visible. */
function useInterval(work, milliseconds) {
    let timer;
    let mounted = false;
    const tick = async () => {
        try {
            if (!document.hidden) {
                await work();
            }
        } catch (error) {
            if (!(error instanceof ConnectionLostError)) {
                throw error;
            }
        }
        if (mounted) {
            timer = browser.setTimeout(tick, milliseconds);
        }
    };
    onMounted(() => {
        mounted = true;
        timer = browser.setTimeout(tick, milliseconds);
    });
    onWillUnmount(() => {
        mounted = false;
        browser.clearTimeout(timer);
    });
}

/** Whether loading again would take something out of the user's hands. */
function isBusy(model) {
    const open = document.querySelector(".o-dropdown--menu, .modal, .o_search_bar_menu.show");
    return Boolean(open || model.root.selection?.length || model.root.editedRecord);
}

/** Both requests go by small indexes: their cost does not grow with the runs that have ended. */
async function signatureOf(orm, resModel) {
    if (resModel === "ops.worker") {
        const fields = ["health", "last_heartbeat", "active_run_count"];
        return { text: JSON.stringify(await orm.searchRead(resModel, [], fields, { limit: 80 })) };
    }
    const active = await orm.searchRead("ops.run", [["status", "in", ACTIVE]], ["status"], {
        limit: 100,
    });
    const newest = await orm.searchRead("ops.run", [], ["status"], { limit: 1 });
    return { text: JSON.stringify([active, newest]), active: active.length > 0 };
}

function useLiveReload(controller) {
    const orm = useService("orm");
    let known = null;
    let loadedAt = Date.now();
    useInterval(async () => {
        const signature = await signatureOf(orm.silent, controller.props.resModel);
        const moved = known !== null && known !== signature.text;
        const old = signature.active && Date.now() - loadedAt > RELOAD_MS;
        if ((moved || old) && !isBusy(controller.model)) {
            await controller.model.load();
            loadedAt = Date.now();
            known = signature.text;
        } else if (!moved) {
            known = signature.text;
        }
    }, POLL_MS);
}

class LiveKanbanController extends kanbanView.Controller {
    setup() {
        super.setup();
        useLiveReload(this);
    }
}

class LiveListController extends listView.Controller {
    setup() {
        super.setup();
        useLiveReload(this);
    }
}

/** The form of a run loads its record again when the run moved, until it has ended. */
class LiveRunFormController extends formView.Controller {
    setup() {
        super.setup();
        const orm = useService("orm");
        let known = null;
        useInterval(async () => {
            const { root } = this.model;
            if (!root.resId || !ACTIVE.includes(root.data.status)) {
                return;
            }
            const [facts] = await orm.silent.read("ops.run", [root.resId], RUN_FACTS);
            const text = JSON.stringify(facts);
            const moved = known !== text || facts.status !== root.data.status;
            known = text;
            if (moved && this.model.root === root) {
                await root.load();
            }
        }, RUN_POLL_MS);
    }
}

const views = registry.category("views");
views.add("ops_live_kanban", { ...kanbanView, Controller: LiveKanbanController });
views.add("ops_live_list", { ...listView, Controller: LiveListController });
views.add("ops_live_run_form", { ...formView, Controller: LiveRunFormController });

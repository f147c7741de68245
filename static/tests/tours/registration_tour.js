import { registry } from "@web/core/registry";

/** A platform administrator makes a registration token and sees what to do with it. */
registry.category("web_tour.tours").add("odooops_registration", {
    url: "/odoo/action-odooops.ops_worker_token_action",
    steps: () => [
        {
            content: "A new token",
            trigger: "button:contains(New registration token)",
            run: "click",
        },
        {
            content: "Say for which hosts",
            trigger: ".o_field_widget[name=name] input",
            run: "edit Tour hosts",
        },
        {
            content: "For two of them",
            trigger: ".o_field_widget[name=hosts] input",
            run: "edit 2",
        },
        {
            content: "Make the token",
            trigger: "button[name=action_generate]",
            run: "click",
        },
        {
            content: "It is shown, once",
            trigger: ".o_field_widget[name=token]:contains(oprt_)",
        },
        {
            content: "And so is what to type on the host",
            trigger: ".o_field_widget[name=commands]:contains(odooops-worker register --control-url http)",
        },
        {
            content: "Done",
            trigger: "footer button:contains(Done)",
            run: "click",
        },
        {
            content: "Nothing shows it any more",
            trigger: "body:not(:has(.modal)):not(:contains(oprt_))",
        },
    ],
});

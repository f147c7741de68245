"""The console in a real browser: a failed run, its failing line, the restart and its end."""

import threading

from odoo.tests import HttpCase, new_test_user, tagged

from .played_worker import Worker, make_workflow

LOGIN = "tour_developer"


@tagged("post_install", "-at_install")
class TestRunTour(HttpCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.developer = new_test_user(cls.env, login=LOGIN, groups="odooops.group_user")
        cls.workflow = make_workflow(cls.env, "Tour shop")
        cls.env["ops.project.membership"].create(
            {
                "project_id": cls.workflow.project_id.id,
                "user_id": cls.developer.id,
                "role": "developer",
            }
        )

    def when_looked_at(self, failed_run_id):
        """An event that is set once somebody reads the log of another run than the failed one."""
        looked_at = threading.Event()
        model = type(self.env["ops.run"])
        read_log_outline = model.read_log_outline

        def observed(run):
            outline = read_log_outline(run)
            if run.id != failed_run_id:
                looked_at.set()
            return outline

        self.patch(model, "read_log_outline", observed)
        return looked_at

    def succeed_next_run(self, worker, looked_at, problems):
        try:
            if not looked_at.wait(60):
                raise AssertionError("nobody restarted the run")
            claim = worker.start()
            worker.log(claim, [("info", "9 passed")])
            worker.complete(claim, exit_code=0)
        except Exception as problem:  # shown by the test's own thread
            problems.append(problem)

    def test_a_failed_run_is_understood_restarted_and_watched_to_its_end(self):
        worker = Worker(self.registry)
        self.workflow.with_user(self.developer).queue_run(git_ref="broken-booking")
        failed_run_id = worker.fail_next_run()
        looked_at = self.when_looked_at(failed_run_id)
        problems = []
        thread = threading.Thread(
            target=self.succeed_next_run, args=(worker, looked_at, problems), name="tour worker"
        )
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(looked_at.set)
        self.start_tour("/odoo/ops-runs", "odooops_run", login=LOGIN, timeout=90)
        thread.join()
        self.assertFalse(problems)
        self.env.invalidate_all()
        restarted = self.env["ops.run"].search([("retry_of", "=", failed_run_id)])
        self.assertEqual(restarted.status, "succeeded")
        self.assertEqual(restarted.requested_by, self.developer)


@tagged("post_install", "-at_install")
class TestRegistrationTour(HttpCase):
    def test_a_platform_administrator_makes_a_registration_token(self):
        """The token is seen once; the command beside it names this server."""
        login = "tour_platform"
        new_test_user(self.env, login=login, groups="odooops.group_platform_admin")
        self.start_tour("/odoo", "odooops_registration", login=login, timeout=90)
        token = self.env["ops.worker.token"].search([("name", "=", "Tour hosts")])
        self.assertEqual((token.kind, token.state, token.uses_left), ("registration", "valid", 2))
        wizard = self.env["ops.registration.token"].search([], limit=1)
        self.assertFalse(wizard.token, "stored nowhere")
        url = self.env["ops.run"].get_base_url()
        self.assertIn(f"register --control-url {url}", wizard.register_command)

"""What the tests of workers with secrets share: a key of their own, and no trace left behind."""

import os
from unittest.mock import patch

from ..models import secret_key
from ..worker.secret_keys import KeyRing


class WithSecretKey:
    """For a test case of real workers; ``self.key_path`` is the file of the key."""

    def setUp(self):
        super().setUp()
        self.addCleanup(self._forget_changes)
        self.key_path = self.folder / "secrets_key"
        self.key_path.write_text(KeyRing.generate().to_text())
        environment = patch.dict(os.environ, {secret_key.ENVIRONMENT: str(self.key_path)})
        environment.start()
        self.addCleanup(environment.stop)

    def _forget_changes(self):
        """Remove the trace, which the triggers forbid to everybody else."""
        self.query("ALTER TABLE ops_secret_change DISABLE TRIGGER USER")
        self.query("DELETE FROM ops_secret_change WHERE project_id = %s", self.project_id)
        self.query("ALTER TABLE ops_secret_change ENABLE TRIGGER USER")

    def _remove_project(self):
        self._forget_changes()
        return super()._remove_project()

"""The worker: claims runs from a control plane and executes them.

This package imports neither Odoo nor the addon around it, only the standard library and what
``requirements/worker.txt`` names, and its own modules by relative imports. The same folder
therefore runs inside an Odoo installation (``odoo ops_worker``) and on a build host that has no
Odoo of its own (``python -m worker``). Where to start reading: ``agent.py`` explains the whole
protocol, ``execution.py`` one run.
"""

"""``python -m worker``: a worker without Odoo, for a build host.

Started from the folder that holds this package.
"""

from __future__ import annotations

import sys

from .agent import main
from .settings import parse

if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:], prog="python -m worker")))

"""`python3 -m devtools COMMAND`: what the Makefile calls."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - said in words, before anything newer is read
    sys.exit(
        "Python 3.10 or newer is needed, this is {}.{}: install one and start again with "
        "`make PYTHON=/path/to/python3 ...`.".format(*sys.version_info)
    )

from .commands import main  # noqa: E402

sys.exit(main(sys.argv[1:]))

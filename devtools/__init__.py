"""Set-up tooling: everything behind the Makefile.

Standard library only, run by the system's python3 (3.10 or newer) as `python3 -m devtools COMMAND`.
Nothing here is imported by the addon.
"""

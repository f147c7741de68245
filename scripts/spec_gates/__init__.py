"""Gates of the papers: they say when `spec/` and `docs/` do not say what is.

Each module is one gate with a function ``check(root)`` that gives findings; a finding names file
and line, what is wrong there, and what to do about it. `make spec-gates` runs all of them.
Standard library only, but for the gate that asks a database.
"""

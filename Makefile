# Everything a new user or CI types. The work is done by devtools/ (Python, standard library only).

PYTHON ?= python3
ARGS ?=
export REUSE

.DEFAULT_GOAL := help
.PHONY: help run up down test lint hooks bench chaos docs screenshots schema prisma spec-gates clean python

DEVTOOLS = "$(PYTHON)" -B -m devtools

help:
	@echo 'make run     start OdooOps with a demo project, follow its log; Ctrl-C stops it'
	@echo 'make up      the same in the background; prints URL, login, password'
	@echo 'make down    stop it'
	@echo 'make test    all tests, in a database of their own; make test ARGS="-k lease"'
	@echo 'make lint    ruff, pylint-odoo, shellcheck'
	@echo 'make hooks   let git check each commit with the tools of make lint, by pre-commit'
	@echo 'make bench   measurements, 30 minutes; make bench ARGS=--quick only tries that they hold'
	@echo 'make chaos   2,000 runs while everything around them breaks, 15 minutes; ARGS=--quick: 3 minutes'
	@echo 'make docs    write docs/errors.md, methods.md, settings.md and static/description/index.html'
	@echo 'make screenshots   take the pictures of docs/images anew, of the demo (needs chromium)'
	@echo 'make schema  write docs/schema and prisma/schema.prisma from a fresh database'
	@echo 'make prisma  compile the TypeScript client in prisma/ (needs Node.js 20.19, or fetches one)'
	@echo 'make spec-gates   whether spec/, docs/ and the schema documents say what is'
	@echo 'make clean   stop, and remove .local with its databases'
	@echo
	@echo 'Needs python3 (3.10 or newer) with venv, git, make and a network at the first start.'
	@echo 'Everything made lies in .local; downloads are kept in $${XDG_CACHE_HOME:-~/.cache}/odooops,'
	@echo 'where further clones find them.'
	@echo
	@echo 'ODOO_HOME    source checkout or unpacked package of Odoo 19.0; otherwise an importable'
	@echo '             Odoo is used, otherwise the Debian package odoo-19 is downloaded and unpacked'
	@echo 'PGHOST, PGPORT, PGUSER, PGPASSWORD   PostgreSQL server (15 or newer) to use; otherwise one'
	@echo '             is started, without installing anything'
	@echo 'ODOOOPS_DB   name of the database (odooops)'
	@echo 'PYTHON       the Python to use (python3)'

run up down test lint hooks bench chaos docs screenshots schema prisma spec-gates clean: python
	@$(DEVTOOLS) $@ $(ARGS)

python:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || \
	  { echo '$(PYTHON) is missing: install Python 3.10 or newer (on Debian and Ubuntu: apt-get install python3 python3-venv).' >&2; exit 1; }

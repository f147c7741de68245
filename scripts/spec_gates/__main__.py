"""`python3 -m scripts.spec_gates [GATE …]`: all gates, or those that are named."""

import sys

from . import bundle, constitution, documents, schema, structure, substance, traceability
from .findings import command

GATES = {
    "bundle": bundle.check,
    "structure": structure.check,
    "substance": substance.check,
    "constitution": constitution.check,
    "traceability": traceability.check,
    "schema": schema.check,
    "documents": documents.check,
}

if __name__ == "__main__":
    sys.exit(command(GATES))

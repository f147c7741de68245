"""Check that the Python, XML and CSV files of modules can be read at all.

This is run as a program (-c) by the Python that runs Odoo, whose syntax counts, and in a process of
its own, which a malicious file may crash without harm. It uses only the standard library. The
answer on standard output is a JSON list of {"file", "line", "message"}.

    python -I -c SOURCE <checkout> <module folder>...
"""

import csv
import json
import os
import sys
import tokenize
import warnings
import xml.parsers.expat

# Not loaded by Odoo as they are: third-party files, and what tests keep wrong on purpose.
SKIPPED = {"__pycache__", "node_modules", "lib", "fixtures", "test_data"}


def python_problem(path):
    """Return (line, message) when the file is no valid Python, else None."""
    try:
        with tokenize.open(path) as stream:
            source = stream.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 1, error.msg
    except (ValueError, RecursionError, MemoryError) as error:
        return 1, str(error) or type(error).__name__
    return None


def xml_problem(path):
    """Return (line, message) when the file is not well-formed XML, else None."""
    parser = xml.parsers.expat.ParserCreate()
    try:
        with open(path, "rb") as stream:
            parser.ParseFile(stream)
    except xml.parsers.expat.ExpatError as error:
        return error.lineno, xml.parsers.expat.ErrorString(error.code)
    return None


def csv_problem(path):
    """Return (line, message) when the file is no UTF-8 table of equally long rows, else None."""
    line = 1
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            for row in reader:
                line = reader.line_num
                if row and len(row) != len(header):
                    return line, f"{len(row)} cells in a table of {len(header)} columns"
    except (csv.Error, UnicodeDecodeError) as error:
        return line, str(error)
    return None


CHECKS = {".py": python_problem, ".xml": xml_problem, ".csv": csv_problem}


def files_of(module):
    """Yield the files of a module that Odoo itself will read."""
    for folder, subfolders, names in os.walk(module):
        inside = os.path.relpath(folder, module).split(os.sep)
        subfolders[:] = sorted(n for n in subfolders if n[0] != "." and n not in SKIPPED)
        for name in sorted(names):
            suffix = os.path.splitext(name)[1]
            if "tests" in inside and suffix != ".py" or inside[0] == "static" and suffix != ".xml":
                continue
            path = os.path.join(folder, name)
            if suffix in CHECKS and not os.path.islink(path):
                yield path, CHECKS[suffix]


def main(arguments):
    """Check the modules and write what is wrong with them."""
    checkout, *modules = arguments
    problems = []
    for module in modules:
        for path, check in files_of(module):
            problem = check(path)
            if problem:
                shown = os.path.relpath(path, checkout)
                problems.append({"file": shown, "line": problem[0], "message": problem[1]})
    json.dump(problems, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])

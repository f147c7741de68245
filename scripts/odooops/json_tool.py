"""What lib.sh needs of jq, for hosts that have Python instead.

    json_tool.py object NAME=TEXT NAME:=JSON ...   print an object
    json_tool.py read PATH                         print the value at a.b.0 of the JSON on stdin
    json_tool.py rows PATH FIELD ...               print a line per object of the list at PATH
    json_tool.py pairs PATH                        print NAME=VALUE of an object, NUL behind each
    json_tool.py lines STEP                        print the lines on stdin as lines of a log

Text is printed as it is, null as nothing, everything else as JSON. Exit code 5: not JSON, or
of another shape.
"""

import json
import sys


def at(document, path):
    for part in filter(None, path.split(".")):
        if isinstance(document, list) and part.isdigit():
            document = document[int(part)] if int(part) < len(document) else None
        elif isinstance(document, dict):
            document = document.get(part)
        elif document is not None:
            raise ValueError(f"there is no {part} in a {type(document).__name__}")
    return document


def as_text(value):
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def print_object(*pairs):
    document = {}
    for pair in pairs:
        name, _equals, value = pair.partition("=")
        is_json = name.endswith(":")
        document[name.removesuffix(":")] = json.loads(value) if is_json else value
    write(json.dumps(document))


def print_value(path):
    write(as_text(at(json.load(sys.stdin), path)))


def print_rows(path, *names):
    for row in at(json.load(sys.stdin), path) or []:
        write(" ".join(as_text(at(row, name)) for name in names))


def print_pairs(path):
    for name, value in (at(json.load(sys.stdin), path) or {}).items():
        pair = f"{name}={as_text(value)}\0"
        sys.stdout.buffer.write(pair.encode("utf-8", "replace"))


def print_lines(step):
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    lines = text.removesuffix("\n").split("\n") if text else []
    rows = [{"level": "info", "message": line, "metadata": {"step": step}} for line in lines]
    write(json.dumps(rows))


def write(text):
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    commands = {
        "object": print_object,
        "read": print_value,
        "rows": print_rows,
        "pairs": print_pairs,
        "lines": print_lines,
    }
    try:
        commands[sys.argv[1]](*sys.argv[2:])
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(5)

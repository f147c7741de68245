"""Tables in Markdown."""


def code(text):
    """The text as code."""
    return f"`{text}`"


def table(headings, rows):
    """A table with its last line end; bars in cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n"
        for line in lines
    )

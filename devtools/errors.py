"""The one exception that ends a command with a sentence instead of a traceback."""


class SetupError(Exception):
    """Something the person at the keyboard can put right.

    The message is one clear sentence (or two): what is missing or wrong, and how to get on.
    """

"""JSON fields as text that people edit: how it is written, and what is wrong with it."""

import json

from odoo.exceptions import ValidationError


def to_text(value):
    """Return the value as JSON in several lines."""
    return json.dumps(value or {}, indent=2, ensure_ascii=False)


def from_text(env, text):
    """Return the value of a text, {} for none.

    :raise ValidationError: with the line and the column of what is wrong
    """
    try:
        return json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValidationError(
            env._(
                "The configuration is no valid JSON: line %(line)s, column %(column)s: %(reason)s.",
                line=error.lineno,
                column=error.colno,
                reason=error.msg,
            )
        ) from error

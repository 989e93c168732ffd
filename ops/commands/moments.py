"""Times on the command line."""

from datetime import datetime

import click

from shared.clock import parse_rfc3339


class Moment(click.ParamType[datetime]):
    """A time on the command line, as RFC 3339."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it; what is none is a wrong command line."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_rfc3339(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time such as 2099-01-31T06:00:00Z.", param, ctx)

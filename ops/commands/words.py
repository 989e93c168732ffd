"""Free text on the command line."""

import click


class Words(click.ParamType[str]):
    """Text that says something, and that a database can keep."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take it as it is; what is empty, or no UTF-8, is a wrong command line."""
        text = str(value)
        if not text.strip():
            self.fail("It must not be empty.", param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("It must be UTF-8.", param, ctx)
        return text

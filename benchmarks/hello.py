"""The least that functions-framework can serve: what every function's start is held against."""

from typing import Any

import functions_framework


@functions_framework.http
def hello(_request: Any) -> dict[str, str]:
    """Answer at once."""
    return {"hello": "world"}

"""`python -m audit`: take every look, print what each says, and fail if one found something.

The tools are those of .venv-audit, which `make audit` makes.
"""

import sys
from pathlib import Path

from audit.looks import Look, code, dependencies, history

_REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    """Give the process's exit code: 0 where nothing was found, also where something could not be looked at."""
    tools = _REPOSITORY / ".venv-audit/bin"
    if not tools.is_dir():
        sys.stderr.write("The tools are not installed. Run `make audit`.\n")
        return 2
    looks: list[Look] = [
        # What is deployed comes first: of the others, nothing is asked where nothing is known of that.
        dependencies(tools, sorted(_REPOSITORY.glob("requirements*.txt"), key=lambda file: len(file.name))),
        code(tools, _REPOSITORY),
        history(tools, _REPOSITORY),
    ]
    for look in looks:
        sys.stdout.write("\n".join(look.said) + "\n")
    return int(not all(look.passed for look in looks))


if __name__ == "__main__":
    sys.exit(main())

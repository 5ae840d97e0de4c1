"""Takes out of the environment it runs in what the services don't need: `python prune.py pyproject.toml`.

The lock pins the tools of development too, and installs all or nothing. What stays is the closure of the project's
own dependencies and of the extra `pymesos`; the installers go last.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement


def name_of(text: str) -> str:
    """A distribution's name as indexes compare them."""
    return re.sub(r"[-_.]+", "-", text).lower()


def closure(roots: Iterable[str]) -> set[str]:
    """Names of the installed distributions that `roots` (requirements) lead to.

    Raises PackageNotFoundError for one that is wanted and not there.
    """
    found: set[str] = set()
    done: set[tuple[str, str]] = set()
    todo = [(Requirement(each), "") for each in roots]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = name_of(requirement.name)
        found.add(name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in done:
                done.add((name, wanted))
                of_it = distribution(name).requires or ()
                todo += [(Requirement(each), wanted) for each in of_it]
    return found


def wanted(project: Path) -> list[str]:
    """What the image is for, as a pyproject.toml says it."""
    declared = tomllib.loads(project.read_text())["project"]
    return [*declared["dependencies"], *declared["optional-dependencies"]["pymesos"]]


def installed() -> set[str]:
    """All distributions of this environment."""
    return {name_of(each.metadata["Name"]) for each in distributions()}


def main(project: Path) -> None:
    """Uninstall the rest; exits 1 when something that is needed is missing."""
    try:
        kept = closure(wanted(project))
    except PackageNotFoundError as error:
        sys.exit(f"prune: {error.name} is needed and not installed")
    installers = ["setuptools", "pip"]
    gone = [*sorted(installed() - kept - {*installers}), *installers]
    print(f"prune: {len(kept)} distributions stay, {len(gone)} go")
    pip = [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes"]
    subprocess.run([*pip, *gone], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

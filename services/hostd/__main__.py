"""`python -m services.hostd [--config FILE] [--section.field=value …]` runs the host daemon alone, as root."""

import asyncio
import sys

import uvloop

from libs.common.errors import GantryError, InvalidInput
from libs.common.runtime import CommonConfig
from services.hostd.main import run
from services.hostd.settings import HostdConfig
from services.main import EXIT_FAILED, EXIT_USAGE, read_settings, until_stopped


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    try:
        settings = read_settings(sys.argv[1:], {"hostd": HostdConfig})
    except InvalidInput as error:
        print(f"hostd: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    common, config = settings["common"], settings["hostd"]
    assert isinstance(common, CommonConfig)
    assert isinstance(config, HostdConfig)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_stopped(run(common, config)))
    except* GantryError as group:
        print(f"hostd: {group.exceptions[0]}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()

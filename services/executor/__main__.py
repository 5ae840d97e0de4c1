"""`python -m services.executor --config FILE`: what Mesos starts."""

from __future__ import annotations

import sys

from services.executor.supervisor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m services.monitor [--config FILE] [--section.field=value …]` runs the monitor alone."""

from services.main import main
from services.monitor.model import MonitorConfig
from services.monitor.service import run

if __name__ == "__main__":
    main({"monitor": run}, {"monitor": MonitorConfig})

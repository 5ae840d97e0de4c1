"""`python -m services.scheduler [--config FILE] [--section.field=value …]` runs the scheduler alone."""

from services.main import main
from services.scheduler.service import run
from services.scheduler.settings import SchedulerConfig

if __name__ == "__main__":
    main({"scheduler": run}, {"scheduler": SchedulerConfig})

"""When jobs run: texts that people write (crontab, ISO 8601, `@every`) and the moments they mean.

`parse` makes a `Schedule` of a text; `base.py` says what it can be asked. The rules are on `docs/cron.md`.
"""

from libs.common.schedule.base import Schedule
from libs.common.schedule.parsing import parse

__all__ = ["Schedule", "parse"]

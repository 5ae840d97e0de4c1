"""Chronos' HTTP API, 2.x and 3.x, as a thin translation: its clients and job files go on working.

| module | what is in it |
|---|---|
| `model.py` | a job as Chronos' JSON has it, read as leniently as Chronos does |
| `schedules.py` | schedules, durations and time zones in Chronos' words, and in ours |
| `names.py` | Chronos' job names as ours, and back |
| `specs.py` | a Chronos job as a JobSpec, and back: what is put is got again |
| `telling.py` | jobs, summaries, graphs and statistics as Chronos tells them |
| `book.py` | what is asked of jobs, in Chronos' terms, of `services/gateway/jobs.py` |
| `routes.py` | the routes of both versions |
| `face.py` | around all routes: HTTP Basic, and errors in Chronos' form |

Facts about Chronos are from its source (mesos/chronos, tags 2.5.1 and v3.0.2), where it differs from its documentation
too; `docs/chronos.md` tells users what maps to what.
"""

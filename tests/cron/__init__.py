"""Whether a cron did what it acknowledged: `workload.py` makes jobs, `checker.py` judges what became of them."""

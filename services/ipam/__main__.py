"""`python -m services.ipam [--config FILE] [--section.field=value …]` runs ipam alone."""

from services.ipam.model import IpamConfig
from services.ipam.service import run
from services.main import main

if __name__ == "__main__":
    main({"ipam": run}, {"ipam": IpamConfig})

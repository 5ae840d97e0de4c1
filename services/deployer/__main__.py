"""`python -m services.deployer [--config FILE] [--section.field=value …]` runs the deployer alone."""

from services.deployer.model import DeployerConfig
from services.deployer.service import run
from services.main import main

if __name__ == "__main__":
    main({"deployer": run}, {"deployer": DeployerConfig})

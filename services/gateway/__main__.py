"""`python -m services.gateway [--config FILE] [--section.field=value …]` runs the gateway alone."""

from services.gateway.model import GatewayConfig
from services.gateway.service import run
from services.main import main

if __name__ == "__main__":
    main({"gateway": run}, {"gateway": GatewayConfig})

"""`python -m services [--config FILE]`: the whole control plane, and minimesos, in one process."""

from collections.abc import Mapping

from pydantic import BaseModel

from libs.common.runtime import ServiceMain
from services.deployer.model import DeployerConfig
from services.deployer.service import run as deployer
from services.embedded import MinimesosSection, cluster_engine
from services.gateway.model import GatewayConfig
from services.gateway.service import run as gateway
from services.ipam.model import IpamConfig
from services.ipam.service import run as ipam
from services.main import main
from services.monitor.model import MonitorConfig
from services.monitor.service import run as monitor
from services.scheduler.service import run as scheduler
from services.scheduler.settings import SchedulerConfig

MAINS: Mapping[str, ServiceMain] = {
    "ipam": ipam,
    "scheduler": scheduler,
    "deployer": deployer,
    "monitor": monitor,
    "gateway": gateway,
}
SECTIONS: Mapping[str, type[BaseModel]] = {
    "gateway": GatewayConfig,
    "deployer": DeployerConfig,
    "scheduler": SchedulerConfig,
    "ipam": IpamConfig,
    "monitor": MonitorConfig,
    "minimesos": MinimesosSection,
}

if __name__ == "__main__":
    main(MAINS, SECTIONS, cluster_engine)

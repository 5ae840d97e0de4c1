"""What is wrong with hosts' networks, as hostd tells it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class NetworkFinding(BaseModel):
    """One thing that is wrong; the names are empty when it concerns the whole host."""

    model_config = ConfigDict(frozen=True, extra="allow")

    check: str
    what: str
    evidence: str = ""
    advice: str = ""
    attachment: str = ""
    container: str = ""
    instance: str = ""


class NetworkDiagnosis(BaseModel):
    """All findings of one host."""

    model_config = ConfigDict(frozen=True, extra="allow")

    host: str
    at: float
    attachments: int
    findings: tuple[NetworkFinding, ...]

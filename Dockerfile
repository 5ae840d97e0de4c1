# One image for every service: `docker run gantry:0.1.0 services.gateway --config …`. Debian 12 and its Python,
# in a virtual environment of its own, so that /opt/gantry also runs on a host of that release as it stands
# (infra/compose/install.sh). Needs nothing but Debian's and Python's package indexes, as the builder has them set.
ARG BASE=debian:12.11-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock pyproject.toml ./
COPY infra/compose/prune.py infra/pymesos/wheel.py ./
RUN python3 -m venv /opt/gantry \
 && /opt/gantry/bin/python wheel.py wheels \
 && /opt/gantry/bin/pip install --no-cache-dir --no-compile --find-links wheels \
      --require-hashes -r requirements.lock \
 && /opt/gantry/bin/python prune.py pyproject.toml
COPY services/executor/native native
RUN make -C native OUT=/src/built /src/built/gantry-runc /src/built/gantry-init \
 && install -m 0755 built/gantry-runc built/gantry-init /opt/gantry/bin/
COPY libs /opt/gantry/app/libs
COPY services /opt/gantry/app/services
RUN rm -r /opt/gantry/app/services/executor/native \
 && echo /opt/gantry/app >/opt/gantry/lib/python3.11/site-packages/gantry.pth \
 && /opt/gantry/bin/python -m compileall -q /opt/gantry/app /opt/gantry/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Gantry" \
      org.opencontainers.image.description="A container cloud on Apache Mesos: every service of it" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 gantry \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/gantry --shell /usr/sbin/nologin gantry \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/gantry
COPY --from=build /opt/gantry /opt/gantry
COPY infra/compose/healthy infra/compose/install.sh /usr/local/bin/
ENV PATH=/opt/gantry/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HEALTH_URL=http://127.0.0.1:8080/healthz
USER 10001:10001
WORKDIR /var/lib/gantry
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["healthy"]
ENTRYPOINT ["python", "-m"]

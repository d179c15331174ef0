# One image for every qdag service: the environment of requirements.lock, checked against its hashes, and qdag itself.

FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements-bootstrap.txt requirements.lock ./
RUN python -m venv /opt/qdag \
    && /opt/qdag/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt \
    && /opt/qdag/bin/uv pip install --no-cache --python /opt/qdag/bin/python --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY qdag ./qdag
RUN /opt/qdag/bin/uv pip install --no-cache --python /opt/qdag/bin/python --no-deps --no-build-isolation .

FROM python:3.12-slim
# LightGBM's OpenMP
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home qdag \
    && mkdir -p /app /data/dagster \
    && chown -R qdag:qdag /app /data
COPY --from=build /opt/qdag /opt/qdag
ENV PATH=/opt/qdag/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    QDAG_HOME=/data \
    DAGSTER_HOME=/data/dagster
WORKDIR /app
USER qdag
VOLUME /data
CMD ["qdag", "--help"]

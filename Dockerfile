# The locked environment in an image; JupyterLab unless told otherwise.
#   docker build -t biomni-r0 .
#   docker run --rm -p 8888:8888 biomni-r0                      JupyterLab
#   docker run --rm -v "$PWD/runs:/srv/biomni/runs" biomni-r0 make reproduce PRESET=cpu
#   docker run --rm -p 8765:8765 -e BIOMNI_SANDBOX_TOKEN -v "$PWD/runs:/srv/biomni/runs" biomni-r0 \
#     .venv/bin/python -m biomni_lib.sandbox serve --host 0.0.0.0
#                                                               the environment server, over the lake of runs/ (make data)
ARG BASE=python:3.12-slim
FROM ${BASE}
# LOCK: which environment; environment/gpu.lock for GPU machines (that variant has not been built). TORCH_INDEX: the default
# of the Makefile serves the CPU build, and is asked for that alone.
ARG LOCK=environment/cpu.lock
ARG TORCH_INDEX=default

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git make \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --home-dir /srv/biomni --shell /bin/bash biomni

USER biomni
WORKDIR /srv/biomni
ENV LOCK=${LOCK} VENV=.venv PIP_NO_CACHE_DIR=1

# The environment first: a change of the code alone does not install it again.
COPY --chown=biomni Makefile pyproject.toml LICENSE ./
COPY --chown=biomni environment ./environment
COPY --chown=biomni biomni_lib/__init__.py ./biomni_lib/
RUN if [ "${TORCH_INDEX}" = default ]; then make setup; else make setup TORCH_INDEX="${TORCH_INDEX}"; fi

COPY --chown=biomni . .
EXPOSE 8888 8765
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD [".venv/bin/python", "environment/health.py"]
CMD ["make", "lab", "LAB_ARGS=--ip=0.0.0.0 --no-browser"]

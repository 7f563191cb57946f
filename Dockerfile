# The service in an image: no torch, no compiler, no model. docs/how-to/deploy.md has the commands.
# For a GPU: --build-arg RUNTIME='onnxruntime-gpu[cuda,cudnn]', and `--provider cuda` at the end of `docker run --gpus 1`.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG RUNTIME=onnxruntime
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv --without-pip /opt/makd && pip install --upgrade 'pip>=25.1'
COPY pyproject.toml constraints.txt ./
RUN pip --python /opt/makd install --constraint constraints.txt --group image "${RUNTIME}"
COPY README.md LICENSE ./
COPY serving ./serving
RUN pip --python /opt/makd install --no-deps .

FROM python:${PYTHON}-slim
RUN pip uninstall --yes pip setuptools wheel
COPY --from=build /opt/makd /opt/makd
# Nothing is written at run time, so the file system may be read-only.
ENV PATH=/opt/makd/bin:$PATH PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
  MAKD_HOST=0.0.0.0 MAKD_PORT=8000
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"MAKD_PORT\"]}/v2/health/ready', timeout=2)"]
# SIGTERM, Docker's own, lets the service answer what it has accepted: give it --stop-timeout 70.
ENTRYPOINT ["python", "-m", "serving"]
CMD ["/model"]

# Two images from one file (built with BuildKit):
#
#   docker build -t tav-sdk .                                  # runtime: bundles on the CPU, no torch
#   docker build -t tav-sdk-workbench --target workbench .     # tuning and export, with torch
#
#   docker run --rm -v "$PWD:/work" tav-sdk edit bundles/skiing --video clip.mp4 --prompt "..." --out out
#
# Both read and write /work. On Linux add --user "$(id -u):$(id -g)", so that what they write belongs to you.

FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build==1.6.1
COPY setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
# The links in tav_sdk/ point to the three folders beside it.
COPY tav_sdk ./tav_sdk
COPY engines ./engines
COPY export ./export
COPY training ./training
RUN python -m build --wheel --outdir /wheels .

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HOME=/tmp
RUN groupadd --gid 1000 tav && useradd --uid 1000 --gid tav --no-create-home tav \
    && install --directory --owner=tav --group=tav /work

FROM base AS workbench
# The default index has torch's CUDA build; an index of CPU builds may be named as PIP_EXTRA_INDEX_URL.
ARG TORCH_VERSION="2.13.0"
ARG PIP_EXTRA_INDEX_URL=""
RUN pip install --no-cache-dir "torch==${TORCH_VERSION}"
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/tav_sdk-*.whl)[training,export,openvino]"
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["tav"]
CMD ["--help"]

# The last stage is the one that is built when none is named.
FROM base AS runtime
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/tav_sdk-*.whl)[openvino]"
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["tav"]
CMD ["--help"]

# The package with all extras. Checked by hadolint; not built in CI, which has no Docker.
# For a GPU, torch from PyPI brings the CUDA libraries; the host needs the NVIDIA container toolkit.
#   docker build -t lightning-fusion .                                          CPU: torch without CUDA
#   docker build -t lightning-fusion:cuda --build-arg DEVICE=cuda .             docker run --gpus all ...
#   docker run --rm -v "$PWD":/work lightning-fusion recipe foe -c recipes/foe_digits.yaml
FROM python:3.11-slim-bookworm

ARG DEVICE=cpu
ARG EXTRAS=all

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lightning_fusion lightning_fusion
COPY configs configs
# torchvision's wheel on PyPI belongs to torch with CUDA; the index of CPU wheels has both without it
RUN case "$DEVICE" in \
      cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
      cuda) ;; \
      *) echo "DEVICE is $DEVICE; expected cpu or cuda" && exit 1 ;; \
    esac \
    && pip install --no-cache-dir ".[$EXTRAS]" --constraint constraints.txt

RUN useradd --create-home --uid 1000 fusion
USER 1000
WORKDIR /work
ENTRYPOINT ["lightning-fusion"]
CMD ["--help"]

# Runs engine on CPUs:  docker build -t engine:cpu .
#
# PyPI's PyTorch for Linux contains the code for GPUs and installs CUDA's libraries, several GB that
# a CPU never uses. PyTorch's own index has wheels without them. For an image of about a third of
# the size, pass the address that pytorch.org shows for "CPU":
#     docker build --build-arg PIP_EXTRA_INDEX_URL=ADDRESS -t engine:cpu .

FROM python:3.11.14-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
# Extras of pyproject.toml.
ARG EXTRAS="openvino,onnx,serve"
RUN python -m venv /opt/engine
ENV PATH=/opt/engine/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The dependencies are a layer of their own, which a change of the code doesn't build again: an
# empty package has the same ones.
RUN mkdir engine dali_pipelines trt benchmarks \
    && touch engine/__init__.py \
    && pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && pip uninstall --yes engine
COPY dali_pipelines dali_pipelines
COPY trt trt
COPY benchmarks benchmarks
COPY engine engine
RUN mkdir /wheel && pip wheel --no-deps --wheel-dir /wheel .

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --create-home engine \
    && install --directory --owner=engine /work
COPY --from=build /opt/engine /opt/engine
# Last and small: the only layer that is new after a change of the code.
RUN --mount=type=bind,from=build,source=/wheel,target=/wheel \
    /opt/engine/bin/pip install --no-cache-dir --no-deps /wheel/*.whl
ENV PATH=/opt/engine/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that Kubernetes can see that it isn't root.
USER 10001
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["engine"]
CMD ["--help"]

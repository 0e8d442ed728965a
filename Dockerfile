# iwbc with all its extras:  docker build -t iwbc .            for processors
#                            docker build -t iwbc --build-arg TORCH=https://download.pytorch.org/whl/cu130 .     for GPUs
#   docker run --rm -v "$PWD:/data" iwbc train env=hopper      (--gpus all … device=cuda)
FROM python:3.11-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --yes --no-install-recommends libegl1 libgl1 libosmesa6 && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir --extra-index-url "$TORCH" --constraint /src/constraints.txt "/src[all]" && rm -rf /src
ENV MINARI_DATASETS_PATH=/data/datasets IWBC_CACHE=/data/cache
WORKDIR /data
ENTRYPOINT ["iwbc"]

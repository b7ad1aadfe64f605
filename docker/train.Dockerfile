# An image that trains on GPUs; with --build-arg EXTRA=cpu on CPUs:
#
#     docker build -f docker/train.Dockerfile -t htc-train .
#
# Python 3.12 would bring TensorFlow 2.21. The commands to run it are in docs/training.md.
FROM python:3.11-slim
ARG EXTRA=gpu
WORKDIR /htc_tf
# What docker/train.Dockerfile.dockerignore leaves: the packages, the configurations and the versions.
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRA,train]"
ENV PYTHONUNBUFFERED=1

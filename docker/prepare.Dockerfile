# An image that prepares data on a Dask cluster: its scheduler, its workers and the job itself.
#
#     docker build -f docker/prepare.Dockerfile -t htc-prepare .
#
# For images in a store, add apache-beam's extra: --build-arg STORE=apache-beam[gcp], or [aws], or [hadoop].
FROM python:3.11-slim
ARG STORE=
WORKDIR /htc_tf
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[cpu,prepare,dask]" $STORE
ENV PYTHONUNBUFFERED=1

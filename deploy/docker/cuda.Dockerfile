# The CUDA image: as the CPU image, with the kernels compiled for sm_80 to sm_120 in it. The NVIDIA container toolkit brings the
# driver's library; it must be that of driver 580 or later.
#
#   docker build -f deploy/docker/cuda.Dockerfile -t antiphon:cuda .
#   docker run --gpus all --read-only -p 8000:8000 -v models:/models antiphon:cuda serve --model openai/gpt-oss-20b
#
# Several GPUs need NVIDIA's libnccl.so.2 beside it: --build-arg NCCL=nvidia-nccl-cu13
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The compiler of the kernels first: it changes less often than the sources.
COPY scripts/cuda-toolchain scripts/cuda-toolchain
COPY kernels/build.rs kernels/build.rs
RUN scripts/cuda-toolchain
COPY . .
ARG ANTIPHON_COMMIT
RUN cargo build --release --locked --bin antiphon
ARG NCCL
RUN mkdir -p /image/usr/local/bin /image/usr/local/lib /image/models \
    && cp target/release/antiphon /image/usr/local/bin/ \
    && if [ -n "$NCCL" ]; then \
        .cuda/venv/bin/pip install --no-deps --target /nccl "$NCCL" && cp /nccl/nvidia/nccl/lib/libnccl.so.2 /image/usr/local/lib/; \
    fi \
    && chown 65532:65532 /image/models

# The toolkit puts the driver's library where a distribution keeps its own, and asks the image's loader for its cache.
FROM debian:12-slim
COPY --from=build /image /
ENV ANTIPHON_HOST=0.0.0.0 HF_HOME=/models LD_LIBRARY_PATH=/usr/local/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 8000
VOLUME /models
STOPSIGNAL SIGTERM
# A model of 65 GB takes its time to load; the server says in its log how far it is.
HEALTHCHECK --interval=5s --timeout=3s --start-period=300s CMD ["/usr/local/bin/antiphon", "health"]
ENTRYPOINT ["/usr/local/bin/antiphon"]
CMD ["serve"]

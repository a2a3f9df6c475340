# syntax=docker/dockerfile:1
# One static binary, its settings and the system's certificate authorities, nothing else: no shell, no package manager,
# no libc. The eBPF object is part of the sources (crates/sampler-bpf), so that this needs stable Rust only.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t profiler:0.1.0 .
#   docker run --rm --pid=host --privileged -p 127.0.0.1:2112:2112 profiler:0.1.0 --profiles-from any
#
# The same sources give the same bytes, by docker, podman and buildah: docs/kubernetes.md, "The image".

ARG BUILD_IMAGE=rust:1.95-slim-bookworm
FROM ${BUILD_IMAGE} AS build
ARG REVISION=""
ARG SOURCE_DATE_EPOCH=0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY . .
# glibc linked in: names are resolved by its built-in `files` and `dns`, which need no shared library since 2.34.
# What the compiler writes of paths is cut, so that it does not matter where cargo keeps its sources.
# Symbols stay (the profiler shows its own functions by name), lines go (they are three quarters of the file).
RUN --mount=type=cache,id=profiler-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=profiler-target,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" && \
    export PROFILER_REVISION="${REVISION}" && \
    export CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo && \
    export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=profiler --remap-path-prefix=${CARGO_HOME}=cargo" && \
    cargo build --release --locked --package profiler --target "${target}" && \
    mkdir -p /image/etc/ssl/certs /image/etc/profiler && \
    cp "target/${target}/release/profiler" /image/profiler && \
    cp config/otel.yaml /image/etc/profiler/otel.yaml && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt && \
    chmod -R u=rwX,go=rX /image && chmod 0755 /image/profiler && \
    find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM scratch
ARG VERSION="0.1.0"
ARG REVISION=""
LABEL org.opencontainers.image.title="profiler" \
      org.opencontainers.image.description="Continuous CPU profiler for Linux hosts, by eBPF: which functions of which processes use the CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
# The user stays root, with as many capabilities as the runtime gives it (docs/privileges.md).
EXPOSE 2112
ENTRYPOINT ["/profiler"]

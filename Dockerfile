# syntax=docker/dockerfile:1
# One static binary and the system's certificate authorities, nothing else: no shell, no package manager, no libc.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t profiler .
#   docker run --rm --pid=host --privileged -p 127.0.0.1:2112:2112 profiler --profiles-from any
#
# The eBPF object is part of the sources (crates/sampler-bpf), so that this needs stable Rust only.

FROM rust:1.95-bookworm AS build
ARG REVISION=""
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY . .
# glibc linked in: names are resolved by its built-in `files` and `dns`, which need no shared library since 2.34.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" && \
    PROFILER_REVISION="${REVISION}" RUSTFLAGS="-C target-feature=+crt-static" \
      cargo build --release --locked --package profiler --target "${target}" && \
    cp "target/${target}/release/profiler" /profiler && \
    strip --strip-debug /profiler

FROM scratch
ARG VERSION="0.1.0"
ARG REVISION=""
LABEL org.opencontainers.image.title="profiler" \
      org.opencontainers.image.description="Continuous CPU profiler for Linux hosts, by eBPF: which functions of which processes use the CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /profiler /profiler
COPY config/otel.yaml /etc/profiler/otel.yaml
# The user stays root, with as many capabilities as the runtime gives it (docs/privileges.md).
EXPOSE 2112
ENTRYPOINT ["/profiler"]

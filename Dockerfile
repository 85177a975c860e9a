# The sidecar in an image: the binary, the C library that it needs, what is in it (/sbom.json), and nothing else. There is
# no shell and nothing to write to; it runs as 65532 with a read-only root.
#
#   docker build --tag outrigger .                       as it is shipped, by profile: three builds, 6 minutes on two cores
#   docker build --tag outrigger --build-arg PROFILE=plain .               one build; calls cost a third more instructions
#   docker buildx build --platform linux/amd64,linux/arm64 .               the one that is not this machine's is plain
#
# In front of one server, from variables (docs/environment.md); it listens on 0.0.0.0:8000, metrics and status are on 9464:
#
#   docker run --read-only --publish 8000:8000 --env MCP_REMOTE_SERVER=https://mcp.example.com/mcp outrigger
#
# With a file (docs/config.yaml). Mount its folder: a mounted file would not be seen to change. Without `listen` in the file
# a sidecar is reached from its own pod only, hence --listen:
#
#   docker run --read-only --publish 8000:8000 --volume "$PWD/config:/etc/outrigger:ro" \
#     outrigger run --config /etc/outrigger/outrigger.yaml --listen 0.0.0.0:8000
#
# There are no certificates in it: the binary trusts Mozilla's roots, built in. Others are mounted as
# /etc/ssl/certs/ca-certificates.crt, for all servers, or named by `tls.caFile`, for one.
#
# The C library is glibc, as it is tested and measured with. A static binary could not ask it for names, and musl has no
# cross compiler in Debian; four files of 2.5 MB are the price.
#
# `scripts/image` builds and checks this without a registry and without Docker.
ARG RUST=1.95.0

FROM --platform=$BUILDPLATFORM rust:${RUST}-slim-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY scripts/rootfs scripts/
RUN scripts/rootfs tools "$TARGETARCH"
COPY . .
ARG PROFILE=pgo
# The commit, for outrigger_build_info; last, since another one builds anew.
ARG REVISION=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    OUTRIGGER_REVISION="$REVISION" CARGO_TARGET_DIR=/target scripts/rootfs build "$TARGETARCH" "$PROFILE" /rootfs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="outrigger" \
      org.opencontainers.image.description="A sidecar that fronts remote MCP servers for agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /rootfs/ /
USER 65532:65532
EXPOSE 8000 9464
ENTRYPOINT ["/outrigger"]
CMD ["run"]

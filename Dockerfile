# One image with the server, the worker and the load generator; what runs is the first word of the command.
# Builds for amd64 and arm64: `docker buildx build --platform linux/amd64,linux/arm64 .` (each compiles on its own kind).

FROM rust:1.95.0-slim-trixie AS build
WORKDIR /build
COPY . .
# The caches outlive the build, so what is wanted is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --locked --release --package todo-server --package todo-worker --package todo-bench \
    && install -D --target-directory=/programs \
        target/release/todo-server target/release/todo-worker target/release/todo-bench \
    # Symbols stay: a profile (docs/operations.md) names functions by them.
    && strip --strip-debug /programs/*

# The same Debian as above: a program must find the C library that it was linked with. Its bash is for health checks.
FROM debian:13.2-slim
# Whom the programs believe when Kafka, Postgres or Redis speak TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /programs/ /usr/local/bin/
# A number, so that Kubernetes can see that it is not root. Nothing in the image belongs to it.
USER 65532:65532
# Inside a container localhost is nobody else's, and samples are not what anybody deploys for.
ENV HTTP_HOST=0.0.0.0 WORKER_HOST=0.0.0.0 SEED_TODOS=0
EXPOSE 8080 8081
CMD ["todo-server"]

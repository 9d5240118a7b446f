"""Checks compose.yaml, Dockerfile, k8s/ and .env.example without an engine or a cluster.

manifests.py ROOT PROGRAMS     PROGRAMS holds todo-server, todo-worker and todo-bench

Their schemas first; then every image, port, variable, flag and probe path in them against what the programs say and
answer. At the end the check itself is checked: each fault of `FAULTS`, made on purpose, must be found.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import check_jsonschema
import jsonschema
import kubernetes_validate
import yaml

# What a cluster may still be: three minor versions are maintained at any time.
KUBERNETES_VERSION = "1.34"
START_SECONDS_MAX = 30
NAMESPACE = "million-rps"
# In the folder and not in kustomization.yaml: applied by whoever wants them.
APPLIED_BY_HAND = {"k8s/ingress.yaml", "k8s/bench-job.yaml"}
DOMAIN_PORT = 53
RETENTION_MS_MIN = 3 * 24 * 3600 * 1000

# Where a text is replaced by another, and what a message about it must name.
FAULTS = [
    ("compose.yaml", "HTTP_HOST: 0.0.0.0", "HTTP_HOTS: 0.0.0.0", "HTTP_HOTS"),
    ("compose.yaml", "127.0.0.1:8080:8080", "127.0.0.1:8080:8090", "8090"),
    ("compose.yaml", "127.0.0.1:8081:8081", "8081:8081", "loopback"),
    ("compose.yaml", "tcp/127.0.0.1/8081", "tcp/127.0.0.1/8080", "8080"),
    ("compose.yaml", "GET /ready", "GET /redy", "/redy"),
    ("compose.yaml", "KAFKA_BROKERS: kafka:9094", "KAFKA_BROKERS: kafka:9095", "9095"),
    ("compose.yaml", "image: redis:8.4", "image: redis:8.2", "redis"),
    ("compose.yaml", "--partitions=32", "--partitions=16", "--partitions"),
    ("compose.yaml", "seccomp-io-uring", "seccomp", "tuning/seccomp.json"),
    ("compose.yaml", "    healthcheck:\n", "    healtcheck:\n", "schema"),
    ("Dockerfile", "EXPOSE 8080 8081", "EXPOSE 8080 8082", "8082"),
    ("Dockerfile", "SEED_TODOS=0", "SEED=0", "SEED"),
    ("Dockerfile", "rust:1", "rust:0", "rust-version"),
    ("Dockerfile", "--package todo-worker", "--package worker", "worker"),
    (".env.example", "WORKER_PORT=8081", "WORKER_PORTS=8081", "WORKER_PORT "),
    ("docs/operations.md", "`KAFKA_CA_FILE`", "", "KAFKA_CA_FILE"),
    ("k8s/configmap.yaml", "CACHE_LIMITS:", "CACHE_LIMIT:", "CACHE_LIMIT"),
    ("k8s/configmap.yaml", "million-rps/redis-url", "million-rps/redis", "REDIS_URL_FILE"),
    ("k8s/secret.yaml", "jwt-secret: for", "jwt: for", "jwt-secret"),
    ("k8s/deployment.yaml", "containerPort: 8080", "containerPort: 8088", "8088"),
    ("k8s/deployment.yaml", "WORKER_PORT, value: \"8081\"", "WORKER_PORT, value: \"8089\"", "8089"),
    ("k8s/deployment.yaml", "path: /health, port: http", "path: /healthz, port: http", "/healthz"),
    ("k8s/deployment.yaml", "path: /ready, port: pages", "path: /ready, port: page", "page"),
    ("k8s/deployment.yaml", "image: million-rps:0.1.0", "image: million-rps:latest", "latest"),
    ("k8s/deployment.yaml", "command: [todo-worker]", "command: [worker]", "worker"),
    ("k8s/deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only"),
    ("k8s/deployment.yaml", "terminationGracePeriodSeconds", "terminationGraceSeconds", "schema"),
    ("k8s/service.yaml", "targetPort: http", "targetPort: web", "web"),
    ("k8s/ingress.yaml", "port: { name: http }", "port: { name: web }", "web"),
    ("k8s/hpa.yaml", "name: million-rps-api }", "name: million-rps }", "million-rps-api"),
    ("k8s/networkpolicy.yaml", "port: 6379", "port: 6380", "6380"),
    ("k8s/poddisruptionbudgets.yaml", "name: kafka }", "name: kafkas }", "kafkas"),
    ("k8s/deps.yaml", "apache/kafka:4.1.1", "apache/kafka:4.1.0", "apache/kafka"),
    ("k8s/deps.yaml", "retention.ms=604800000", "retention.ms=86400000", "retention"),
    ("k8s/bench-job.yaml", "--depth=16", "--deep=16", "--deep"),
    ("k8s/bench-job.yaml", "million-rps-api:8080/todos", "million-rps-api:80/todos", "80"),
    ("k8s/kustomization.yaml", "  - hpa.yaml\n", "", "hpa.yaml"),
    ("tuning/seccomp-io-uring.json", "io_uring_setup", "io_setup", "io_uring_setup"),
]


def main(root, programs):
    root = Path(root)
    files = {name: (root / name).read_text(encoding="utf-8") for name in file_names(root)}
    with Facts(Path(programs), root) as facts:
        faults = check(files, facts)
        for fault in faults:
            print(fault)
        missed = [] if faults else [fault for fault in FAULTS if not found(files, facts, *fault)]
    for name, before, after, _ in missed:
        print(f"this check does not notice {after!r} instead of {before!r} in {name}")
    print(f"{len(files)} files checked, {len(faults)} faults; {len(FAULTS)} made on purpose, {len(missed)} missed")
    sys.exit(1 if faults or missed else 0)


def file_names(root):
    single = ["compose.yaml", "Dockerfile", ".env.example", "docs/operations.md", "tuning/seccomp-io-uring.json"]
    return single + sorted(str(path.relative_to(root)) for path in (root / "k8s").glob("*.yaml"))


def found(files, facts, name, before, after, named):
    if before not in files[name]:
        sys.exit(f"{name} has no {before!r} any more: mend FAULTS")
    return any(named in fault for fault in check(files | {name: files[name].replace(before, after, 1)}, facts))


class Facts:
    """What the programs say (`--help`) and answer, and what the repository has pinned. Ends what it starts."""

    def __init__(self, programs, root):
        manifest = tomllib.loads((root / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]
        self.image = f"million-rps:{manifest['version']}"
        self.rust = manifest["rust-version"]
        jars = (root / "xtask/src/stack/kafka.jars").read_text(encoding="utf-8")
        self.kafka = re.search(r"kafka_2\.13[-:/ ]+(\d+\.\d+\.\d+)", jars)[1]
        helps = {name: say(programs / name, "--help") for name in ("todo-server", "todo-worker")}
        self.variables = {name: set(re.findall(r"\[env: ([A-Z0-9_]+)", text)) for name, text in helps.items()}
        self.defaults = dict(
            pair for text in helps.values() for pair in re.findall(r"\[env: ([A-Z0-9_]+)=\]\s+\[default: ([^\]]*)\]", text)
        )
        self.variables["todo-bench"] = set()
        self.bench_flags = set(re.findall(r"(--[a-z-]+)", say(programs / "todo-bench", "load", "--help")))
        self.port_variables = {"todo-server": "HTTP_PORT", "todo-worker": "WORKER_PORT"}
        self.host_variables = {"todo-server": "HTTP_HOST", "todo-worker": "WORKER_HOST"}
        self.directory = tempfile.TemporaryDirectory()
        self.started, self.ports, self.paths = [], {}, {}
        nobody = {"KAFKA_BROKERS": "127.0.0.1:1", "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}
        try:
            self.start(programs, "todo-server", {"SEED_TODOS": "1", "DATA_FILE": f"{self.directory.name}/todos.db"})
            # It serves its pages while it waits for the services.
            self.start(programs, "todo-worker", nobody)
        except BaseException:
            self.__exit__()
            raise

    def start(self, programs, name, settings):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.ports[name] = probe.getsockname()[1]
        settings = {"PATH": os.environ["PATH"], self.port_variables[name]: str(self.ports[name])} | settings
        process = subprocess.Popen(
            [programs / name], env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.started.append(process)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.serves(name, "/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not answer /health (exit status {process.poll()})")
            self.paths.clear()
            time.sleep(0.05)

    def serves(self, name, path):
        """Whether the program knows the path; that it is not ready is an answer too."""
        if (name, path) not in self.paths:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=5).close()
                known = True
            except urllib.error.HTTPError as error:
                known = error.code == 503
            except OSError:
                known = False
            self.paths[name, path] = known
        return self.paths[name, path]

    def port(self, name, environment):
        variable = self.port_variables[name]
        return int(environment.get(variable, self.defaults[variable]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.wait()
        self.directory.cleanup()


def say(*command):
    return subprocess.run(command, env={}, check=True, capture_output=True, text=True).stdout


def check(files, facts):
    """What is wrong, a sentence each."""
    faults = []
    compose = yaml.safe_load(files["compose.yaml"])
    documents = {
        name: [document for document in yaml.safe_load_all(text) if document]
        for name, text in files.items()
        if name.startswith("k8s/")
    }
    faults += check_schemas(compose, documents)
    if not faults:
        # What follows takes the shape for granted.
        faults += check_compose(compose, files, facts)
        faults += check_kubernetes(documents, compose, facts)
        faults += check_dockerfile(files["Dockerfile"], facts)
        faults += check_texts(files, compose, facts)
    return faults


def check_schemas(compose, documents):
    schema_file = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(compose):
        yield f"compose.yaml: schema: {error.json_path}: {error.message}"
    for name, resources in documents.items():
        for resource in resources:
            if resource["apiVersion"].startswith("kustomize.config.k8s.io/"):
                continue
            try:
                kubernetes_validate.validate(resource, KUBERNETES_VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: schema: {resource['kind']}: {error.json_path}: {error.message}"


def check_compose(compose, files, facts):
    services = compose["services"]
    seen = set()
    for name, service in services.items():
        where = f"compose.yaml: {name}"
        for published in service.get("ports", []):
            if not published.startswith("127.0.0.1:"):
                yield f"{where}: {published} is not bound to loopback"
        program = (service.get("command") or [""])[0]
        if program not in facts.port_variables:
            if "profiles" in service:
                yield f"{where}: {program!r} is none of the programs"
            continue
        seen.add(program)
        environment = {key: str(value) for key, value in service["environment"].items()}
        port = facts.port(program, environment)
        yield from check_variables(where, program, environment, facts)
        for published in service.get("ports", []):
            if int(published.rsplit(":", 1)[1]) != port:
                yield f"{where}: {published} leads elsewhere than to port {port}"
        health = service["healthcheck"]["test"][-1]
        asked = re.search(r"/dev/tcp/127\.0\.0\.1/(\d+)", health)[1]
        if int(asked) != port:
            yield f"{where}: the health check asks port {asked}, not {port}"
        path = re.search(r"GET (\S+) HTTP", health)[1]
        if not facts.serves(program, path):
            yield f"{where}: {program} has no {path}"
        if service["image"] != facts.image:
            yield f"{where}: the image is {service['image']}, not {facts.image}"
        for option in service["security_opt"]:
            profile = option.removeprefix("seccomp:./")
            if profile != option and profile not in files:
                yield f"{where}: {profile} does not exist"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            yield f"{where}: it is not read-only, or keeps capabilities"
        listeners = re.findall(r":(\d+)", services["kafka"]["environment"]["KAFKA_LISTENERS"])
        for place, host, listening in (
            (environment["KAFKA_BROKERS"], "kafka", listeners),
            (environment["DATABASE_URL"], "postgres", ["5432"]),
            (environment["REDIS_URL"], "redis", ["6379"]),
        ):
            if not any(f"{host}:{number}" in place for number in listening):
                yield f"{where}: {host} does not listen where {place} leads"
    if seen != set(facts.port_variables):
        yield f"compose.yaml: it starts only {sorted(seen)}"
    yield from check_topic("compose.yaml: topic", services["topic"]["entrypoint"][-1], facts, replicas=1)


def check_topic(where, script, facts, replicas):
    expected = {
        "--topic=": facts.defaults["KAFKA_TODO_TOPIC"],
        "--partitions=": facts.defaults["KAFKA_PARTITIONS"],
        "--replication-factor=": str(replicas),
        "message.timestamp.type=": "LogAppendTime",
        "cleanup.policy=": "delete",
    }
    if replicas > 1:
        expected["min.insync.replicas="] = "2"
    for setting, value in expected.items():
        values = set(re.findall(re.escape(setting) + r"([\w-]+)", script))
        if values != {value}:
            yield f"{where}: {setting} is {sorted(values)} instead of {value}"
    retention = re.search(r"retention\.ms=(\d+)", script)
    if not retention or int(retention[1]) < RETENTION_MS_MIN:
        yield f"{where}: the retention is under three days"


def check_variables(where, program, environment, facts):
    for name in sorted(set(environment) - facts.variables[program]):
        yield f"{where}: {program} has no variable {name}"
    host = facts.host_variables.get(program)
    if host and environment.get(host) != "0.0.0.0":
        yield f"{where}: without {host}=0.0.0.0 nobody else reaches it"


def check_dockerfile(text, facts):
    where = "Dockerfile"
    rust = re.search(r"^FROM rust:(\S+)", text, re.MULTILINE)[1]
    if not rust.startswith(f"{facts.rust}."):
        yield f"{where}: rust:{rust} is not the rust-version {facts.rust}"
    exposed = {int(port) for port in re.search(r"^EXPOSE (.*)", text, re.MULTILINE)[1].split()}
    listened = {facts.port(program, {}) for program in facts.port_variables}
    if exposed != listened:
        yield f"{where}: it exposes {sorted(exposed)}, the programs listen on {sorted(listened)}"
    names = re.findall(r"(\w+)=", re.search(r"^ENV (.*)", text, re.MULTILINE)[1])
    for name in names:
        if not any(name in variables for variables in facts.variables.values()):
            yield f"{where}: no program has a variable {name}"
    if "SEED_TODOS=0" not in text:
        yield f"{where}: an image starts with an empty store (SEED_TODOS=0)"
    for words in (re.findall(r"--package (\S+)", text), re.findall(r"release/(\S+)", text)):
        if set(words) != set(facts.variables):
            yield f"{where}: {sorted(words)} are not the programs {sorted(facts.variables)}"
    if not re.search(r"^USER [1-9]\d*", text, re.MULTILINE):
        yield f"{where}: it runs as root, or as a name that Kubernetes cannot judge"


def check_texts(files, compose, facts):
    known = facts.variables["todo-server"] | facts.variables["todo-worker"]
    example = dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", files[".env.example"], re.MULTILINE))
    for name in sorted(set(example) ^ known):
        whose = "no program has" if name in example else ".env.example lacks"
        yield f".env.example: {whose} the variable {name} "
    for name in sorted(name for name in known if f"`{name}`" not in files["docs/operations.md"]):
        yield f"docs/operations.md: the variable {name} is not explained"
    postgres = compose["services"]["postgres"]["environment"]
    login = "postgres://{POSTGRES_USER}:{POSTGRES_PASSWORD}@localhost:5432/{POSTGRES_DB}".format(**postgres)
    if example.get("DATABASE_URL") != login:
        yield f".env.example: DATABASE_URL is not that of compose.yaml, {login}"
    for call in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        if f'"{call}"' not in files["tuning/seccomp-io-uring.json"]:
            yield f"tuning/seccomp-io-uring.json: it forbids {call}"


class Cluster:
    """The resources by kind, each with the file it stands in."""

    def __init__(self, documents):
        self.resources = [(name, resource) for name, resources in documents.items() for resource in resources]

    def of(self, *kinds):
        return [(name, resource) for name, resource in self.resources if resource["kind"] in kinds]

    def named(self, kind, name):
        return next((item for _, item in self.of(kind) if item["metadata"]["name"] == name), None)

    def templates(self):
        return [(name, item, item["spec"]["template"]) for name, item in self.of("Deployment", "StatefulSet", "Job")]

    def selected(self, selector):
        """The pod templates that a label selector chooses."""
        return [template for _, _, template in self.templates() if selects(selector, template["metadata"]["labels"])]

    def ports(self):
        """Every port of every pod, by name and by number."""
        containers = (container for _, _, template in self.templates() for container in template["spec"]["containers"])
        ports = [port for container in containers for port in container.get("ports", [])]
        return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


def selects(selector, labels):
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))


def check_kubernetes(documents, compose, facts):
    cluster = Cluster(documents)
    pinned = {service["image"] for service in compose["services"].values()}
    seen = set()
    for name, resource, template in cluster.templates():
        for container in template["spec"]["containers"]:
            where = f"{name}: {resource['metadata']['name']}"
            image = container["image"]
            if image not in pinned:
                yield f"{where}: {image} is not an image of compose.yaml: {sorted(pinned)}"
            if image.startswith("apache/kafka:") and not image.endswith(f":{facts.kafka}"):
                yield f"{where}: the tests run with apache/kafka {facts.kafka}"
            if "resources" not in container or container["securityContext"].get("allowPrivilegeEscalation") is not False:
                yield f"{where}: it is not bounded"
            if image == facts.image:
                seen.add(container["command"][0])
                yield from check_container(where, container, template, cluster, facts)
        if resource["metadata"]["name"] == "kafka-topic":
            yield from check_topic(name, template["spec"]["containers"][0]["args"][-1], facts, replicas=3)
    if seen != set(facts.variables):
        yield f"k8s: the containers run {sorted(seen)} instead of {sorted(facts.variables)}"
    yield from check_references(cluster)
    for name, resource in cluster.resources:
        if resource["kind"] not in ("Namespace", "Kustomization") and resource["metadata"]["namespace"] != NAMESPACE:
            yield f"{name}: {resource['metadata']['name']} is in another namespace than {NAMESPACE}"
    kustomization = documents["k8s/kustomization.yaml"][0]
    listed = {f"k8s/{resource}" for resource in kustomization["resources"]}
    for name in sorted(listed ^ (set(documents) - APPLIED_BY_HAND - {"k8s/kustomization.yaml"})):
        yield f"k8s/kustomization.yaml: {name} is listed and absent, or the reverse"
    for image in kustomization["images"]:
        if f"{image['name']}:{image['newTag']}" != facts.image:
            yield f"k8s/kustomization.yaml: its image is not {facts.image}"


def check_container(where, container, template, cluster, facts):
    program = container["command"][0]
    if program not in facts.variables:
        yield f"{where}: {program!r} is none of the programs"
        return
    environment = {}
    for source in container.get("envFrom", []):
        environment |= cluster.named("ConfigMap", source["configMapRef"]["name"])["data"]
    environment |= {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
    yield from check_variables(where, program, environment, facts)
    if not container["securityContext"].get("readOnlyRootFilesystem"):
        yield f"{where}: its file system is not read-only"
    there = secret_files(container, template, cluster)
    for name, value in environment.items():
        if name.endswith("_FILE") and value not in there:
            yield f"{where}: {name} is {value}, and mounted are {sorted(there)}"
    if program == "todo-bench":
        flags = {argument.split("=")[0] for argument in container["args"] if argument.startswith("--")}
        for flag in sorted(flags - facts.bench_flags):
            yield f"{where}: todo-bench load has no {flag}"
        url = next(argument for argument in container["args"] if argument.startswith("--url="))
        host, port = re.match(r"--url=http://([^:/]+):(\d+)/", url).groups()
        service = cluster.named("Service", host)
        if not service or int(port) not in (entry["port"] for entry in service["spec"]["ports"]):
            yield f"{where}: no service {host} has the port {port}"
        return
    port = facts.port(program, environment)
    open_ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
    if list(open_ports.values()) != [port]:
        yield f"{where}: {program} listens on {port}, its container's ports are {open_ports}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        target = container[probe]["httpGet"]
        if target["port"] not in open_ports:
            yield f"{where}: {probe} asks the port {target['port']}, there are {open_ports}"
        if not facts.serves(program, target["path"]):
            yield f"{where}: {probe}: {program} has no {target['path']}"


def secret_files(container, template, cluster):
    """Every file that a container finds a secret in."""
    volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
    files = set()
    for mount in container.get("volumeMounts", []):
        source = volumes[mount["name"]].get("secret", {})
        secret = cluster.named("Secret", source.get("secretName"))
        keys = secret["stringData"] if secret else {}
        files |= {f"{mount['mountPath']}/{item['path']}" for item in source.get("items", []) if item["key"] in keys}
    return files


def check_references(cluster):
    """Whatever names something else in the cluster names something that is there."""
    for name, service in cluster.of("Service"):
        chosen = cluster.selected({"matchLabels": service["spec"]["selector"]})
        names = {port["name"] for template in chosen for item in template["spec"]["containers"] for port in item["ports"]}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in names:
                yield f"{name}: {service['metadata']['name']}: its pods have no port {port['targetPort']}"
    for name, ingress in cluster.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = cluster.named("Service", backend["name"])
                ports = [port["name"] for port in service["spec"]["ports"]] if service else []
                if backend["port"]["name"] not in ports:
                    yield f"{name}: no service {backend['name']} has the port {backend['port']['name']}"
    for name, scaler in cluster.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if not cluster.named(target["kind"], target["name"]):
            yield f"{name}: there is no {target['kind']} {target['name']}; million-rps-api is the servers'"
    for name, budget in cluster.of("PodDisruptionBudget"):
        if not cluster.selected(budget["spec"]["selector"]):
            yield f"{name}: no pod is chosen by {budget['spec']['selector']}"
    ports = cluster.ports() | {DOMAIN_PORT}
    for name, policy in cluster.of("NetworkPolicy"):
        where = f"{name}: {policy['metadata']['name']}"
        if not cluster.selected(policy["spec"]["podSelector"]):
            yield f"{where}: it chooses no pod"
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            for port in rule["ports"]:
                if port["port"] not in ports:
                    yield f"{where}: no pod has the port {port['port']}"
            for peer in rule.get("from", []) + rule.get("to", []):
                if "podSelector" in peer and not cluster.selected(peer["podSelector"]):
                    yield f"{where}: no pod is chosen by {peer['podSelector']}"


if __name__ == "__main__":
    main(*sys.argv[1:])

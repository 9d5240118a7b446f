"""The half of the monitoring check that needs Prometheus' own parsers.

monitoring.py FOLDER    reads every page in FOLDER (NAME.open is OpenMetrics, NAME.text the older format, of the same moment or
                        so) strictly, then compares the names and labels in docs/monitoring, docs/metrics.md and the dashboard
                        with them, and the names in all documents. At the end the check of docs/metrics.md is checked: each
                        fault of `FAULTS`, made on purpose, must be found
"""

import json
import re
import sys
from pathlib import Path

import yaml
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client import parser as older

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docs/monitoring"
PAGE = ROOT / "server/src/http/page_files/dashboard.html"
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_count", "_sum"],
}
# Labels that Prometheus gives, and Grafana's functions and variables.
GIVEN = {"job", "instance", "le"}
FOREIGN = {"up"}
NAME = re.compile(r"\b(?:todo|process)_[a-z0-9_]+\b|\bup\b")
LIST = ROOT / "docs/metrics.md"
# What the list calls the programs whose pages have a series.
PROGRAMS = {
    "file": {"file"},
    "cluster": {"cluster"},
    "server": {"file", "cluster"},
    "worker": {"worker"},
    "all": {"file", "cluster", "worker"},
}
# Crates, which are named in documents too.
CRATES = {"todo_server", "todo_worker", "todo_proto", "todo_bench"}
# Where a text in the list is replaced by another, and what a message about it must name.
FAULTS = [
    ("| `todo_reads_total` |", "| `todo_read_total` |", "`todo_reads_total`"),
    ("| `todo_reads_total` |", "| `todo_read_total` |", "nobody exports todo_read_total"),
    ("| `todo_read_bytes_total` | counter |", "| `todo_read_bytes_total` | gauge |", "`todo_read_bytes_total` | counter"),
    ("| `todo_written_bytes_total` | counter | shard |", "| `todo_written_bytes_total` | counter | - |", "| shard |"),
    ("| `todo_connections` | gauge | shard |", "| `todo_connections` | gauge | route, shard |", "| shard |"),
    ("| `todo_commits_total` | counter | - | file |", "| `todo_commits_total` | counter | - | server |", "| file |"),
    ("| `process_threads` | gauge | - | all |", "| `process_threads` | gauge | - | world |", "| all |"),
    ("| `todo_draining` | gauge", "| `todo_build` | gauge", "todo_build stands there twice"),
    ("| worker | Commands applied |", "| worker | |", "todo_worker_commands_total is not explained"),
]


def families(folder):
    """Every family of every page: the names of its series, and their labels. And by the name that the list has it under:
    its type, labels, what it is said to be, and the pages that have it."""
    series, listed, faults = {}, {}, []
    pages = sorted(folder.glob("*.open"))
    if not pages:
        sys.exit("no page to read")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if not text.endswith("\n# EOF\n"):
            faults.append(f"{page.name}: no # EOF at its end")
        found = list(open_metrics.text_string_to_metric_families(text))
        plain = list(older.text_string_to_metric_families(page.with_suffix(".text").read_text(encoding="utf-8")))
        names = {family.name: family.type for family in found}
        if names != {family.name: family.type for family in plain}:
            faults.append(f"{page.name}: the two formats name different families")
        if len(found) < 20:
            faults.append(f"{page.name}: only {len(found)} families")
        for family in found:
            if not family.documentation:
                faults.append(f"{page.name}: {family.name} is not explained")
            if family.type not in SUFFIXES:
                faults.append(f"{page.name}: {family.name} is of type {family.type}")
                continue
            for suffix in SUFFIXES[family.type]:
                series.setdefault(family.name + suffix, set())
            name = family.name + "_total" if family.type == "counter" else family.name
            entry = listed.setdefault(name, (family.type, set(), family.documentation, set()))
            # Of a family that has no series just now nobody knows the labels.
            entry[1].update(*(sample.labels for sample in family.samples), () if family.samples else ("?",))
            entry[3].add(page.stem)
            for sample in family.samples:
                series.setdefault(sample.name, set()).update(sample.labels)
    return series, listed, faults


def expressions():
    """Where each expression stands, and the expression."""
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    dashboard = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]


def check_expressions(series):
    faults, count = [], 0
    for place, expression in expressions():
        names = NAME.findall(expression)
        if not names:
            faults.append(f"{place}: no metric in {expression}")
        known = set(GIVEN)
        for name in names:
            count += 1
            if name in FOREIGN:
                continue
            if name not in series:
                faults.append(f"{place}: nobody exports {name}")
            known |= series.get(name, set())
        for labels in re.findall(r"\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels):
                if label not in known:
                    faults.append(f"{place}: none of its metrics has the label {label}")
        for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression):
            for label in filter(None, re.split(r"[\s,]+", labels)):
                if label not in known and "halted" not in expression:
                    faults.append(f"{place}: none of its metrics has the label {label}")
    return faults, count


def check_page(series):
    text = PAGE.read_text(encoding="utf-8")
    # A name is a whole string; one that is put together in pieces is not looked at.
    names = set(re.findall(r"['\"]((?:todo|process)_[a-z0-9_]+)['\"]", text))
    names |= set(re.findall(r"^\s+(todo_[a-z0-9_]+):", text, re.MULTILINE))
    families = {name.removesuffix("_bucket") for name in series if name.endswith("_bucket")}
    faults = [f"dashboard.html: nobody exports {name}" for name in sorted(names) if name not in series and name not in families]
    return faults, len(names)


def line_of(name, family):
    """How the list has a family."""
    kind, labels, meaning, pages = family
    labels = ", ".join(sorted(labels - {"le", "?"})) or "-"
    program = next(program for program, having in PROGRAMS.items() if having == pages)
    return f"| `{name}` | {kind} | {labels} | {program} | {meaning.removesuffix('.')} | - |"


def check_list(listed, text):
    """Compares the list with what is exported. A fault ends with the line that is wanted."""
    faults, seen = [], set()
    for line in re.findall(r"^\| `.*$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        name = cells[0].strip("`")
        if name in seen:
            faults.append(f"docs/metrics.md: {name} stands there twice")
        seen.add(name)
        if name not in listed:
            faults.append(f"docs/metrics.md: nobody exports {name}")
            continue
        if len(cells) != 6 or not all(cells):
            faults.append(f"docs/metrics.md: {name} is not explained in six columns")
            continue
        kind, labels, _, pages = listed[name]
        said = set(re.findall(r"\w+", cells[2]))
        if cells[1] != kind or "?" not in labels and said != labels - {"le"} or PROGRAMS.get(cells[3]) != pages:
            faults.append(f"docs/metrics.md: {name} is otherwise: {line_of(name, listed[name])}")
    for name in sorted(listed.keys() - seen):
        faults.append(f"docs/metrics.md has no line for it: {line_of(name, listed[name])}")
    return faults, len(seen)


def check_faults(listed, text):
    """Whether the comparison finds what is wrong."""
    missed = []
    for before, after, named in FAULTS:
        if before not in text:
            sys.exit(f"docs/metrics.md has no {before!r} any more: mend FAULTS")
        found, _ = check_list(listed, text.replace(before, after, 1))
        if not any(named in fault for fault in found):
            missed.append(f"this check does not notice {after!r} instead of {before!r}")
    return missed, len(listed)


def check_documents(series, listed):
    faults, count = [], 0
    for document in {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tuning/*.md")} - {LIST}:
        for code in re.findall(r"`([^`\n]+)`", document.read_text(encoding="utf-8")):
            for name in re.findall(r"\btodo_[a-z0-9_]*[a-z0-9]\b", code):
                count += 1
                if name not in series and name not in listed and name not in CRATES:
                    faults.append(f"{document.relative_to(ROOT)}: nobody exports {name}")
    return faults, count


def main(folder):
    series, listed, faults = families(Path(folder))
    text = LIST.read_text(encoding="utf-8")
    checks = [check_expressions(series), check_page(series), check_list(listed, text), check_documents(series, listed)]
    if not any(more for more, _ in checks):
        checks.append(check_faults(listed, text))
    for more, count in checks:
        faults += more
        if count < 15:
            faults.append(f"only {count} names were looked at: have the files moved?")
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(series)} series are exported, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1])

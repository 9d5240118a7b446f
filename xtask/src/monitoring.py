"""The half of the monitoring check that needs Prometheus' own parsers.

monitoring.py FOLDER    reads every page in FOLDER (NAME.open is OpenMetrics, NAME.text the older format, of the same moment or
                        so) strictly, then compares the names and labels in docs/monitoring and the dashboard with them
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


def families(folder):
    """Every family of every page: the names of its series, and their labels."""
    series, faults = {}, []
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
            for sample in family.samples:
                series.setdefault(sample.name, set()).update(sample.labels)
    return series, faults


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


def main(folder):
    series, faults = families(Path(folder))
    for more, count in (check_expressions(series), check_page(series)):
        faults += more
        if count < 15:
            faults.append(f"only {count} names were looked at: have the files moved?")
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(series)} series are exported, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1])

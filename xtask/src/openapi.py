"""The half of the OpenAPI check that needs an OpenAPI library.

openapi.py convert SPEC.yaml SPEC.json     validate the document and write it as JSON
openapi.py bodies SPEC.json EXCHANGES.json check each body against its schema
"""

import json
import sys

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate


def convert(source, target):
    with open(source, encoding="utf-8") as file:
        document = yaml.safe_load(file)
    validate(document)
    # YAML has dates and JSON has none: an example that became one would fail here, not pass as a string.
    with open(target, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")


def bodies(document_path, exchanges_path):
    with open(document_path, encoding="utf-8") as file:
        document = json.load(file)
    with open(exchanges_path, encoding="utf-8") as file:
        exchanges = json.load(file)
    if not exchanges:
        sys.exit("no exchange has a body to check")
    faults = 0
    for exchange in exchanges:
        # References in a schema begin at the root of the document.
        schema = {**exchange["schema"], "components": document["components"]}
        for error in Draft202012Validator(schema).iter_errors(json.loads(exchange["body"])):
            faults += 1
            print(f"{exchange['case']}: {error.json_path}: {error.message}")
    print(f"{len(exchanges)} bodies checked, {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    {"convert": convert, "bodies": bodies}[sys.argv[1]](*sys.argv[2:])

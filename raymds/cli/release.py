"""The verbs that hand a model on: `raymds gate`, `raymds export` and `raymds classify`."""

import argparse
from datetime import UTC, datetime
from typing import Any

from raymds.cli.data import verb_parser
from raymds.cli.terminal import Terminal
from raymds.store import uri as storage

_MODEL = "directory of a run (its outcome is taken) or file of weights, local or in a bucket"


def gate(options: argparse.Namespace, terminal: Terminal) -> int:
    """Whether a certificate has what a policy asks for a release; status 3 where it has not."""
    from raymds.release import findings, policy
    from raymds.release import gate as gating

    asked = policy.load(options.policy)
    found = gating.judge(gating.find(options.certificate, asked.signature), asked, datetime.now(UTC))
    if options.markdown:
        storage.write(options.markdown, findings.markdown(found).encode())
    if options.junit:
        storage.write(options.junit, findings.junit(found))
    passed = all(finding.passed for finding in found)
    terminal.table("release gate", findings.HEADINGS, findings.rows(found))
    terminal.say(findings.verdict(found))
    terminal.result({"gate": "passed" if passed else "refused", "findings": findings.records(found)})
    return 0 if passed else 3


def export(options: argparse.Namespace, terminal: Terminal) -> int:
    """The model as files that open_clip loads without raymds, with its classifiers, certificate and card."""
    from raymds.release import delivered
    from raymds.release import export as exporting

    exported = exporting.export(delivered.find(options.model), options.to, onnx=options.onnx, show=terminal.show)
    for note in exported.notes:
        terminal.say(f"note: {note}")
    terminal.say(f"exported to {options.to}: {', '.join(exported.content['files'])}")
    terminal.result({"export": options.to, "notes": exported.notes, **exported.content})
    return 0


def classify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Label, probability and margin of every attribute for many images."""
    from raymds.release import classify as classifying
    from raymds.release import delivered, images
    from raymds.release.recogniser import recogniser
    from raymds.store import objects
    from raymds.store.aws import StorageConfig
    from raymds.train import cluster

    objects.configure(StorageConfig(), terminal.show)  # a store that is gone is waited for
    if options.out:
        classifying.check_name(options.out)
    found = delivered.find(options.model)
    model, digest = recogniser(found)
    items = images.find(options.images, options.split)
    cores = None if cluster.named() else cluster.cpus()
    if cores is None:
        cluster.start_ray(terminal.show)
    table = classifying.classify(options.model, model, items, terminal.show, cores=cores)
    broken = len(table) - table["error"].null_count
    if options.out:
        classifying.save(table, options.out)
    else:
        for row in table.to_pylist():
            _show(row, model.classes, terminal)
    if found.kept:
        terminal.say(f"note: {found.kept}")
    where = f" in {options.out}" if options.out else ""
    terminal.say(f"{len(table)} images{where}, {broken} of them can't be read")
    terminal.result(
        {
            "out": options.out,
            "images": len(table),
            "broken": broken,
            "temperature": model.temperature,
            "weights": digest,
        }
    )
    return 2 if broken == len(table) else 0


def _show(row: dict[str, Any], classes: dict[str, list[str]], terminal: Terminal) -> None:
    """One image, as a line for people and as a record for machines."""
    if row["error"]:
        terminal.show({"event": "image", "image": row["image"], "error": row["error"]})
        terminal.say(f"{row['image']}: {row['error']}")
        return
    names = ("label", "probability", "margin")
    said = {a: dict(zip(names, (row[a], row[f"{a}.probability"], row[f"{a}.margin"]), strict=True)) for a in classes}
    terminal.show({"event": "image", "image": row["image"], "labels": said})
    shown = (f"{a} {s['label']} {100 * s['probability']:.1f} % (+{100 * s['margin']:.1f})" for a, s in said.items())
    terminal.say(f"{row['image']}: {', '.join(shown)}")


def add(verbs: Any) -> None:
    """The parsers of these verbs."""
    example = "raymds gate runs/fog --policy policy.yaml --markdown gate.md --junit gate.xml"
    verb = verb_parser(verbs, "gate", gate, example)
    verb.description = (
        f"{gate.__doc__} Whatever the policy asks for, there has to be a new model, a proven loss never passes, the "
        "target has to gain, and the certificate's numbers have to agree with each other."
    )
    verb.add_argument("certificate", metavar="CERT", help="certificate.json, or a run with one, local or in a bucket")
    verb.add_argument(
        "--policy",
        required=True,
        metavar="FILE",
        help="YAML: verdict, negative_flips, tolerance, gain, gain_lower, confidence, age_days, protect, split, "
        "signature",
    )
    verb.add_argument("--markdown", metavar="FILE", help="write a table for a pull request there")
    verb.add_argument("--junit", metavar="FILE", help="write JUnit XML there, a test case for each rule and task")

    verb = verb_parser(verbs, "export", export, "raymds export runs/fog --to export/fog --onnx")
    verb.add_argument("model", metavar="RUN|WEIGHTS", help=_MODEL)
    verb.add_argument("--to", required=True, metavar="DIR", help="directory of the export, local or in a bucket")
    verb.add_argument("--onnx", action="store_true", help="image tower and classifiers as ONNX, too (raymds[onnx])")

    verb = verb_parser(
        verbs, "classify", classify, "raymds classify runs/fog s3://bucket/drive-17 --out labels.parquet"
    )
    verb.description = (
        f"{classify.__doc__} A probability is a softmax of cosines / temperature, that of the run's constraints, or "
        "1 / exp(logit_scale) where the weights come without a run; the margin is the probability less the second "
        "class's. Where RAY_ADDRESS names a cluster, it does the work."
    )
    verb.add_argument("model", metavar="RUN|WEIGHTS", help=_MODEL)
    verb.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, prefixes of a bucket, data sets")
    verb.add_argument("--split", help="this split of data sets alone (default: all)")
    verb.add_argument("--out", metavar="FILE", help="table to write, .parquet or .csv (default: print it)")

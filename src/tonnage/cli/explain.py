"""``tonnage explain``: a line of an answer down to its formula, and the rules of thumb beside the project's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from tonnage.cli.flags import Verb, flags, text, together
from tonnage.cli.options import DIMENSIONS, FROM, MODEL, OUTPUT, SHAPES, STRICT, model_of, plain, started
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

LINE: Final = text("--line", "Name of the line: weights, activations, kv_cache, ...; or instants.", "NAME")


@click.group(short_help="A line of an answer down to its formula; the rules of thumb.")
def command() -> None:
    """A line of an answer down to its formula, numbers and reference; or the rules of thumb."""


@command.command("train", cls=Verb, short_help="A line of tonnage train.")
@MODEL
@together(LINE, flags(Train), STRICT, OUTPUT)
def train(**given: Any) -> int:
    """A line of tonnage train MODEL: formula, numbers, trust and reference."""
    return _line("train", given)


@command.command("serve", cls=Verb, short_help="A line of tonnage serve.")
@MODEL
@together(LINE, FROM, flags(Serve), STRICT, OUTPUT)
def serve(**given: Any) -> int:
    """A line of tonnage serve MODEL: formula, numbers, trust and reference."""
    return _line("serve", given)


@command.command("rules", cls=Verb, short_help="The rules of thumb, beside the project's own figures.")
@MODEL
@OUTPUT
def rules(**given: Any) -> int:
    """The rules of thumb as their texts state them, beside what tonnage computes for the same case.

    With MODEL both columns are for that model, else for the case of the text.
    """
    from tonnage.cli.show import dumped
    from tonnage.report.rules import render

    as_json = given.pop("as_json")
    named = any(given[key] is not None for key in ("model", "model_flag", *DIMENSIONS, *SHAPES))
    model = model_of(given) if named else None
    rows = beside(model)
    if as_json:
        dumped({"schema": 1, "rules": rows})
    else:
        print(render(rows, None if model is None else model.name))
    return 0


def _line(verb: str, given: dict[str, Any]) -> int:
    from tonnage import api
    from tonnage.cli.show import dumped
    from tonnage.errors import InputError
    from tonnage.report import instants

    as_json, name = given.pop("as_json"), given.pop("line")
    given.pop("strict")
    if verb == "serve":
        given["command"] = started(given)
    model = model_of(given)
    result = (api.train if verb == "train" else api.serve)(model, suggest=False, **given)
    there = list(dict.fromkeys(c.name for c in result.components))
    if name is None:
        raise InputError("no line is named", key="line", hint=f"--line NAME, one of {', '.join(there)}, instants")
    if name == instants.ASKED:
        timeline = instants.told(result)
        if as_json:
            dumped(timeline)
        else:
            print(instants.render(timeline))
        return 0
    # The table prints "kv cache", the JSON "kv_cache".
    known = name in there or f"other:{name}" in there
    found = explained(api.line(result, name if known else name.strip().replace("-", "_").replace(" ", "_")))
    if as_json:
        dumped(found)
    else:
        print(_rendered(found))
    return 0


def explained(components: tuple[Any, ...]) -> dict[str, Any]:
    """One object for all lines of a name: their sum, and each of them where there are several."""
    from tonnage.evidence import TRUSTS

    lines = [
        {
            "line": c.name,
            "formula": c.why,
            "terms": [{"symbol": s, "meaning": meaning, "value": value} for s, meaning, value in c.terms],
            "bytes": c.bytes,
            "trust": c.trust,
            "reference": c.reference,
        }
        for c in components
    ]
    if len(lines) == 1:
        return {"schema": 1, **lines[0]}
    return {
        "schema": 1,
        "line": lines[0]["line"],
        "formula": "; ".join(line["formula"] for line in lines),
        "terms": [term for line in lines for term in line["terms"]],
        "bytes": sum(line["bytes"] for line in lines),
        # A sum is as trustworthy as its weakest part.
        "trust": max((line["trust"] for line in lines), key=TRUSTS.index),
        "reference": "; ".join(dict.fromkeys(line["reference"] for line in lines if line["reference"])),
        "lines": lines,
    }


def _rendered(found: Mapping[str, Any]) -> str:
    from tonnage.report.text import table, width, wrapped
    from tonnage.units import gib

    columns = width()
    out = [f"{found['line']}: {gib(found['bytes'])}, {found['bytes']:,} B, {found['trust']}"]
    for line in found.get("lines", [found]):
        out.append("")
        if "lines" in found:
            out.append(f"{gib(line['bytes'])}, {line['bytes']:,} B, {line['trust']}")
        out += wrapped("formula", [line["formula"]], columns)
        rows = [(f"  {t['symbol']}", t["meaning"], f"{t['value']:,}") for t in line["terms"]]
        if rows:
            out += ["terms:", table(rows, right=frozenset({2}))]
        if line["reference"]:
            out += wrapped("reference", [line["reference"]], columns)
    return "\n".join(out)


class Case:
    """A model and what the project says of it; every question is answered once."""

    def __init__(self, model: Any) -> None:
        from tonnage.rules import dimensions

        self.model = model
        self.dimensions = dimensions(model)
        self.tokens = int(self.dimensions["tokens"])
        self._asked: dict[tuple[Any, ...], Any] = {}

    def _run(self, verb: str, said: Mapping[str, Any]) -> Any:
        from tonnage import api

        key = (verb, *sorted(said.items()))
        if key not in self._asked:
            self._asked[key] = (api.train if verb == "train" else api.serve)(self.model, suggest=False, **said)
        return self._asked[key]

    def step(self, **said: Any) -> Any:
        """One training step in fp32, one sequence, unless said otherwise."""
        return self._run("train", {"precision": "fp32", "batch": 1, "seq": self.tokens, **said})

    def run(self, dtype: str, **said: Any) -> Any:
        """Serving one sequence."""
        return self._run("serve", {"dtype": dtype, "context": self.tokens, **said})

    def weights(self, dtype: str, **said: Any) -> int:
        """The weights line. [byte]"""
        return lines_of(self.run(dtype, **said), "weights")

    def activations(self, **said: Any) -> int:
        """What is alive at the loss beyond what is resident between steps, with eager attention. [byte]"""
        rank = self.step(attention="eager", **said).fullest
        return int(max(i.bytes for i in rank.instants if i.name in LOSS) - rank.static_bytes)

    def of_layer(self, *roles: str) -> int:
        """Parameters of some roles in the first layer that has them; of all where none is named."""
        for layer in self.model.decoder.layers:
            there = sum(t.numel for t in layer.weights() if (t.role in roles if roles else t.role != "buffer"))
            if there:
                return int(there)
        return 0

    def fp32(self, parameters: int) -> int:
        """Bytes of so many fp32 values. [byte]"""
        from tonnage.formats import FORMATS

        return FORMATS["fp32"].nbytes(parameters)

    def of_layers(self, *, upper_half: bool = False) -> int:
        """Parameters of all layers, or of those that half as deep a model lacks."""
        kept = {stack.name: len(stack.layers) // 2 if upper_half else 0 for stack in self.model.stacks}
        return sum(
            t.numel
            for stack in self.model.stacks
            for layer in stack.layers[kept[stack.name] :]
            for t in layer.weights()
            if t.role != "buffer"
        )


def lines_of(result: Any, *names: str) -> int:
    """Tensors of a result's lines of some names. [byte]"""
    return sum(c.bytes for c in result.components if c.tier == "requested" and c.name in names)


def peak(result: Any) -> int:
    """All tensors at the peak. [byte]"""
    return int(result.fullest.tier("requested"))


STEADY: Final = ("weights", "optimizer_state", "gradients", "inputs")
LOSS: Final = ("loss", "loss backward")
"""Instants at which all activations are alive and no gradient is yet."""
FEED_FORWARD: Final = ("feed_forward", "expert", "shared_expert", "router")

OWN: Final[dict[str, Callable[[Case], int | float]]] = {
    "A1": lambda c: c.weights("fp32"),
    "A2": lambda c: peak(c.step()),
    "A3": lambda c: c.fp32(c.model.parameters.stored),
    "A4": lambda c: c.weights("fp16"),
    "B1": lambda c: c.model.parameters.by_component().get("embedding", 0),
    "B2": lambda c: c.of_layer("attention"),
    "B3": lambda c: c.of_layer(*FEED_FORWARD),
    "B4": lambda c: c.of_layer("norm"),
    "B5": lambda c: c.model.parameters.total,
    "B6": lambda c: c.weights("fp32"),
    "B6b": lambda c: c.weights("bf16"),
    "B7": lambda c: peak(c.run("fp32")),
    "B7b": lambda c: peak(c.step()),
    "B8": lambda c: lines_of(c.step(accumulate=2), *STEADY),
    "B9": lambda c: c.activations(),
    "B10": lambda c: peak(c.step(attention="eager")),
    "B11": lambda c: c.model.parameters.total,
    "B13": lambda c: c.of_layers(),
    "B13b": lambda c: c.of_layer(),
    "B14a": lambda c: peak(c.step()) - peak(c.step(precision="bf16-mixed")),
    "B14b": lambda c: c.weights("fp32") - c.weights("fp32", tp=8),
    "B14c": lambda c: c.activations() - c.activations(recompute="full"),
    "B14e": lambda c: c.fp32(c.of_layers(upper_half=True)),
    "C1": lambda c: c.weights("fp32"),
    "C2": lambda c: peak(c.step()),
    "C2b": lambda c: peak(c.step()),
    "C3": lambda c: lines_of(c.step(), "optimizer_state"),
    "C4": lambda c: c.activations(batch=2) / c.activations(),
    "C4b": lambda c: c.activations(seq=2 * c.tokens) / c.activations(),
    "C6": lambda c: c.weights("fp32", tp=8),
}
"""Row of a rule to the project's own figure for the same case."""


def beside(model: Any | None = None) -> list[dict[str, Any]]:
    """Every rule with its value and the project's own.

    Args:
        model: both are for it; for the case of the rule's text where there is none.
    """
    from tonnage.rules import RULES

    given = None if model is None else Case(model)
    cases: dict[str, Case] = {}
    out = []
    for rule in RULES.values():
        own, why_not = own_value(rule, given, cases)
        note = "; ".join(filter(None, (rule.note, why_not)))
        out.append(
            {
                "id": rule.id,
                "statement": rule.statement,
                "value": rule.of(given.dimensions if given is not None else {}),
                "unit": rule.unit or None,
                "own_value": own,
                "note": note or None,
                "erratum": rule.erratum or None,
            }
        )
    return out


def own_value(rule: Any, given: Case | None, cases: dict[str, Case]) -> tuple[int | float | None, str]:
    """The project's own figure for a rule's case; without one, the reason.

    Args:
        rule: a row.
        given: the model that the user named.
        cases: models of the texts that are already there, by name.
    """
    from tonnage.errors import TonnageError

    try:
        if "device" in rule.example:
            from tonnage.devices import device

            return device(rule.example["device"]).memory_bytes, ""
        if rule.id not in OWN:
            return None, ""
        if given is None and rule.case not in cases:
            cases[rule.case] = Case(_loaded(rule.case))
        return OWN[rule.id](cases[rule.case] if given is None else given), ""
    except TonnageError as e:
        # A figure that the project refuses is no reason to withhold the others.
        return None, f"no own figure: {e.message}"


def _loaded(case: str) -> Any:
    from tonnage import api
    from tonnage.rules import CASES

    source = CASES[case]
    return api.load(source if isinstance(source, str) else plain(source))

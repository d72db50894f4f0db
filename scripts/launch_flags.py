"""Print the flags that vLLM or SGLang has, as src/tonnage/data/flags/ holds them, from unpacked releases.

    python scripts/launch_flags.py vllm vllm-0.6.6/vllm vllm-0.33.0/vllm > flags.txt
    python scripts/launch_flags.py sglang sglang-0.4.4/sglang sglang-0.5.23/sglang

Sources are read, never imported: arguments that are added by name, and the annotated fields that others are made of.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from glob import glob

FILES = {
    "vllm": ("engine/arg_utils.py", "entrypoints/openai/cli_args.py", "entrypoints/common/cli_args.py"),
    "sglang": ("srt/server_args.py", "srt/arg_groups/fields/*.py"),
}
CLASSES = ("EngineArgs", "AsyncEngineArgs", "FrontendArgs", "BaseFrontendArgs")
NARGS = {"'+'": "+", "'*'": "*", "'?'": "?"}


def main(argv: Sequence[str]) -> int:
    """Print the list of an engine, newest release last."""
    if len(argv) < 2 or argv[0] not in FILES:
        print(__doc__, file=sys.stderr)
        return 2
    takes: dict[str, str] = {}
    firsts: dict[str, list[str]] = {}
    for folder in argv[1:]:
        for pattern in FILES[argv[0]]:
            for path in sorted(glob(os.path.join(folder, pattern))):
                with open(path, encoding="utf-8") as file:
                    for names, kind in flags(ast.parse(file.read())):
                        known = next((firsts[name] for name in names if name in firsts), [])
                        known += [name for name in names if name not in known]
                        for name in names:
                            takes[name], firsts[name] = kind, known
    seen: set[str] = set()
    rows = []
    for names in firsts.values():
        new = [name for name in names if name not in seen]
        seen.update(new)
        if new:
            # A long name first, for messages.
            new.sort(key=lambda name: not name.startswith("--"))
            rows.append((new[0], f"{takes[new[0]]} {' '.join(new)}"))
    print("\n".join(row for _, row in sorted(rows)))
    return 0


def flags(tree: ast.Module) -> Iterator[tuple[list[str], str]]:
    """Names of every flag of a file, and what it takes."""
    fields: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    fields[item.target.id] = ast.unparse(item.annotation)
                    if "Frontend" in node.name:
                        yield [_flag(item.target.id)], _of(fields[item.target.id])
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield from _annotated(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")]
            if names:
                yield [str(name) for name in names], _added(node, str(names[0]), fields)


def _annotated(node: ast.AnnAssign) -> Iterator[tuple[list[str], str]]:
    """A field ``name: A[type, Arg(...)]`` of SGLang."""
    kind = node.annotation
    if not (
        isinstance(kind, ast.Subscript) and getattr(kind.value, "id", "") == "A" and isinstance(kind.slice, ast.Tuple)
    ):
        return
    assert isinstance(node.target, ast.Name)
    said: dict[str, str] = {}
    for part in kind.slice.elts[1:]:
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "Derived":
            return
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "Arg":
            said = {k.arg: ast.unparse(k.value) for k in part.keywords if k.arg}
    if said.get("no_cli") == "True":
        return
    name = ast.literal_eval(said["cli_name"]) if said.get("cli_name", "None") != "None" else _flag(node.target.id)
    names = [name, *(ast.literal_eval(said["aliases"]) if "aliases" in said else [])]
    plain = ast.unparse(kind.slice.elts[0])
    if "nargs" in said:
        yield names, NARGS.get(said["nargs"], "1")
    elif "BooleanOptional" in said.get("action", ""):
        yield names, "b"
    elif plain in ("bool", "Optional[bool]", "bool | None") or "rue" in said.get("action", ""):
        yield names, "0"
    elif plain.lower().startswith(("list[", "optional[list[")) and "type_parser" not in said:
        yield names, "+"
    else:
        yield names, "1"


def _added(node: ast.Call, name: str, fields: dict[str, str]) -> str:
    """What an argument takes: as it says, else by the field that it is made of."""
    said = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
    action = said.get("action", "")
    if "BooleanOptional" in action or "EnableDisable" in action:
        return "b"
    if any(word in action for word in ("store_true", "store_false", "store_const", "StoreTrue", "StoreConst")):
        return "0"
    if "nargs" in said:
        return NARGS.get(said["nargs"], "1")
    made = any(k.arg is None for k in node.keywords)
    return _of(fields.get(name.lstrip("-").replace("-", "_"), "")) if made else "1"


def _of(annotation: str) -> str:
    """What a flag of that type takes."""
    plain = annotation.replace(" ", "")
    if "bool" in plain:
        return "?" if "str" in plain and "dict" not in plain else "b"
    return "+" if any(f"{word}[" in plain for word in ("list", "List", "set", "tuple")) else "1"


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

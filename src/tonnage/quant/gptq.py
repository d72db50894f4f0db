"""GPTQ: groups of rows along the input, packed into 32-bit words; zero points and group indices are always stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._matching import expression
from tonnage.quant._stored import (
    INDICES,
    PACKED,
    SCALES,
    ZEROS,
    Matrix,
    Part,
    Recipe,
    Scheme,
    names_of,
    up,
)
from tonnage.record import Record

SOURCE: Final = "auto-gptq 0.7.1 nn_modules/qlinear/qlinear_cuda.py QuantLinear, the layout that gptqmodel reads"
FORMATS: Final = ("gptq", "gptq_v2")
UNPACKED: Final = ("router", "head")
"""Roles that the quantizers' tables of a block's linear layers leave out."""


def parts(m: Matrix, *, bits: int, group: int) -> tuple[Part, ...]:
    """``qweight``, ``qzeros``, ``scales`` and ``g_idx`` of one matrix.

    >>> m = Matrix(module="q", role="attention", outs=("N", 4096), ins=("D", 4096))
    >>> [p.axes for p in parts(m, bits=4, group=128)][0]
    (('D', 512), ('N', 4096))
    """
    groups = up(m.columns, group) if group > 0 else 1
    letter, out = m.ins[0], m.outs[0]
    return (
        Part("qweight", ((letter, m.columns // 32 * bits), m.outs), "int32", PACKED),
        Part("qzeros", ((letter, groups), (out, m.rows // 32 * bits)), "int32", ZEROS),
        Part("scales", ((letter, groups), m.outs), "fp16", SCALES),
        Part("g_idx", (m.ins,), "int32", INDICES),
    )


class Rule(Record):
    """What GPTQModel does differently to the modules that an expression matches.

    Args:
        pattern: from the start of a module's name.
        packed: False where the modules stay as they are.
        bits: of a weight; None for those of all.
        group: weights that share a scale; None for that of all.
    """

    pattern: re.Pattern[str]
    packed: bool
    bits: int | None = None
    group: int | None = None


def dynamic(k: Keys) -> list[Rule]:
    """The rules of ``dynamic``: behind ``-:`` what is left alone, behind ``+:`` or nothing what differs.

    https://github.com/ModelCloud/GPTQModel/blob/v4.2.5/gptqmodel/quantization/config.py, ``dynamic_get``.
    """
    given = k.config.get("dynamic")
    k.skip("dynamic")
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise ConfigError(f"{k.path}dynamic must be an object", key=f"{k.path}dynamic", file=k.file)
    out = []
    for name, own in given.items():
        if name.startswith("-:"):
            out.append(Rule(expression(name.removeprefix("-:")), packed=False))
            continue
        if not isinstance(own, Mapping):
            raise ConfigError(f"{k.path}dynamic.{name} must be an object", key=f"{k.path}dynamic", file=k.file)
        inner = Keys(own, file=k.file, ignored=k.allowed, lenient=k.lenient, path=f"{k.path}dynamic.{name}.")
        bits, group = inner.optional("bits"), inner.optional("group_size")
        inner.skip("sym", "desc_act", "mse", "damp_percent", "static_groups", "act_group_aware", "true_sequential")
        inner.done()
        k.ignored += inner.ignored
        if bits not in (None, 2, 3, 4, 8) or (group is not None and group != -1 and group < 1):
            raise ConfigError(
                f"{inner.path} states bits or groups that GPTQ lacks", key=f"{k.path}dynamic", file=k.file
            )
        out.append(Rule(expression(name.removeprefix("+:")), packed=True, bits=bits, group=group))
    return out


def settings(rules: list[Rule], m: Matrix, bits: int, group: int) -> tuple[int, int] | None:
    """Bits and group of one matrix; None where it stays as it is.

    Raises:
        UnsupportedError: the experts of a layer, or their gates and ups, are not alike.
    """
    found = {_own(rules, name, bits, group) for name in names_of(m)}
    if len(found) > 1:
        raise UnsupportedError(
            f"rules of dynamic store parts of {m.module} differently: not modelled", key="quantization_config.dynamic"
        )
    return found.pop()


def _own(rules: list[Rule], name: str, bits: int, group: int) -> tuple[int, int] | None:
    for rule in rules:
        if rule.pattern.match(name):
            return (rule.bits or bits, rule.group or group) if rule.packed else None
    return bits, group


def _listed(only: object, k: Keys) -> tuple[str, ...] | None:
    """Endings of the modules that ``modules_in_block_to_quantize`` lists; None for all."""
    if only is None:
        return None
    if not isinstance(only, list) or not all(isinstance(n, list | str) for n in only):
        raise ConfigError(f"{k.path}modules_in_block_to_quantize must be lists of names", key=k.path, file=k.file)
    return tuple(str(n) for found in only for n in (found if isinstance(found, list) else [found]))


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``GPTQConfig``."""
    bits, group = k.need("bits"), k.want("group_size", 128)
    if bits not in (2, 3, 4, 8):
        raise ConfigError(f"GPTQ packs 2, 3, 4 or 8 bits, not {bits}", key=f"{k.path}bits", value=bits, file=k.file)
    if group != -1 and group < 1:
        raise ConfigError(f"group_size = {group}", key=f"{k.path}group_size", value=group, file=k.file)
    for key in ("checkpoint_format", "format"):
        form = k.want(key, "gptq") or "gptq"
        if form not in FORMATS:
            raise UnsupportedError(f"{key} = {form} is not modelled yet", key=f"{k.path}{key}", value=form, file=k.file)
    rules = dynamic(k)
    k.refuse("is_marlin_format")
    k.refuse("pack_dtype", "int32")
    k.refuse("adapter")
    head = bool(k.want("lm_head", False))
    only = k.config.get("modules_in_block_to_quantize")
    k.skip(
        "modules_in_block_to_quantize", "desc_act", "act_group_aware", "sym", "damp_percent", "damp_auto_increment",
        "true_sequential", "static_groups", "model_name_or_path", "model_file_base_name", "meta", "backend",
        "tokenizer", "dataset", "model_seqlen", "block_name_to_quantize", "module_name_preceding_first_block",
        "batch_size", "pad_token_id", "use_exllama", "disable_exllama", "exllama_config", "max_input_length",
        "cache_block_outputs", "use_cuda_fp16", "mse", "quantizer", "uri", "static_groups", "offload_to_disk",
        "offload_to_disk_path",
    )  # fmt: skip
    names = _listed(only, k)

    def takes(m: Matrix) -> bool:
        if m.rows * bits % 32 or m.columns % 32 or (m.layer is None and not (head and m.role == "head")):
            return False
        if rules and settings(rules, m, bits, group) is None:
            return False
        return (names is None or m.module.endswith(names)) and (m.role not in UNPACKED or (head and m.role == "head"))

    def store(m: Matrix) -> tuple[Part, ...]:
        own = settings(rules, m, bits, group) if rules else None
        return parts(m, bits=own[0] if own else bits, group=own[1] if own else group)

    return Recipe(
        method="gptq",
        title=f"GPTQ, {bits} bit, "
        + (f"groups of {group}" if group > 0 else "one group a column")
        + (", other settings for some modules" if rules else ""),
        source=SOURCE,
        store=store,
        by_layer=bool(rules),
        takes=takes,
        adds_default=False,
        calibrated=True,
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/quantizer_gptq.py",
)

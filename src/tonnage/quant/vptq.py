"""VPTQ: vectors along the output as indices into codebooks, packed into 32-bit words, each matrix with its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import CODES, INDICES, PACKED, SCALES, Matrix, Part, Recipe, Scheme, options, up

SOURCE: Final = "vptq 0.0.5 vptq/layers/vqlinear.py VQuantLinear.__init__, with packed indices"
PAIRS: Final = ("vector_lens", "num_centroids", "num_res_centroids")
NUMBERS: Final = ("group_num", "group_size", "outlier_size")


def parts(m: Matrix, s: Mapping[str, Any]) -> tuple[Part, ...]:
    """Indices, codebooks, norms and permutation of one matrix.

    >>> m = Matrix(module="q", role="attention", outs=("N", 4096), ins=("D", 4096))
    >>> s = {"vector_lens": [-1, 8], "num_centroids": [-1, 65536], "num_res_centroids": [-1, 256], "group_num": 1,
    ...      "group_size": 4096, "outlier_size": 0, "enable_norm": True, "enable_perm": True}
    >>> [p.axes[-1][1] for p in parts(m, s)]
    [524288, 2048, 3072, 4096, 4096, 4096]
    """
    length, centroids, residual = (s[key][1] for key in PAIRS)
    books, group = s["group_num"], s["group_size"]
    bits = int(math.log2(centroids)) + (int(math.log2(residual)) if residual > 0 else 0)
    out = [Part("centroids.weight", (("X", books), ("X", centroids * length)), None, CODES)]
    if residual > 0:
        out.append(Part("res_centroids.weight", (("X", books), ("X", residual * length)), None, CODES))
    words = (("X", books), (m.outs[0], up(m.rows, length)), (m.ins[0], up(group * bits, 32)))
    out.append(Part("indices", words, "int32", PACKED))
    outlier, few = s["vector_lens"][0], s["num_centroids"][0]
    if outlier > 1 and few > 0:
        form = "fp16" if s.get("indices_as_float") else "int16"
        out.append(Part("outlier_centroids.weight", (("X", few * outlier),), None, CODES))
        rows = (m.outs[0], up(m.rows, outlier))
        out.append(Part("outlier_indices", (rows, ("X", s["outlier_size"])), form, INDICES))
    if s.get("enable_norm"):
        out += [Part(name, (m.ins,), None, SCALES) for name in ("weight_scale", "weight_bias")]
    if s.get("enable_perm"):
        out.append(Part("perm", (m.ins,), "int16", INDICES))
    return tuple(out)


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``VptqConfig``: transformers takes those of each module by its full name."""
    given = k.config.get("config_for_layers")
    k.skip("config_for_layers", "modules_to_not_convert", "enable_proxy_error")
    if k.config.get("shared_layer_config"):
        raise UnsupportedError(
            "shared settings of VPTQ are not modelled", key=f"{k.path}shared_layer_config", file=k.file
        )
    k.skip("shared_layer_config")
    if not isinstance(given, Mapping) or not given:
        raise ConfigError("config_for_layers is missing", key=f"{k.path}config_for_layers", file=k.file)
    settings = {name: _checked(name, own, k) for name, own in given.items()}
    return Recipe(
        method="vptq",
        title="VPTQ, codebooks of vectors",
        source=SOURCE,
        store=lambda m: parts(m, settings[m.module]),
        takes=lambda m: m.linear and m.module in settings,
        skips=options(k.config, "modules_to_not_convert"),
        adds_default=False,
        by_layer=True,
        calibrated=True,
    )


def _checked(name: str, own: Any, k: Keys) -> Mapping[str, Any]:
    path = f"{k.path}config_for_layers.{name}"
    if not isinstance(own, Mapping):
        raise ConfigError(f"{path} must be an object", key=path, file=k.file)
    pairs = all(
        isinstance(own.get(key), list) and len(own[key]) == 2 and all(isinstance(n, int) for n in own[key])
        for key in PAIRS
    )
    numbers = all(isinstance(own.get(key), int) and own[key] >= 0 for key in NUMBERS)
    if not pairs or not numbers:
        raise ConfigError(f"{path} needs {', '.join((*PAIRS, *NUMBERS))}", key=path, file=k.file)
    if own["vector_lens"][1] < 1 or own["num_centroids"][1] < 2 or own["group_size"] < 1 or own["group_num"] < 1:
        raise ConfigError(f"{path} states no codebook", key=path, file=k.file)
    if own.get("vector_quant_dim", "out") != "out" or not own.get("is_indice_packed", True):
        raise UnsupportedError(f"{path}: packed indices along the output alone are modelled", key=path, file=k.file)
    return own


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/vptq.py",
)

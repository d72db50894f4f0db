"""Dynamic int8, sparse and 2:4 storage against what torch makes of a matrix on the CPU.

cuSPARSELt needs a GPU and is not run.
"""

from __future__ import annotations

import math
import warnings
import zipfile

import pytest
import torch

from tonnage import quant
from tonnage.formats import FORMATS, storage_format
from tonnage.quant._stored import Matrix

SHAPES = [(64, 96), (384, 512), (2048, 1024)]


def matrix(rows, columns):
    return Matrix(module="m", role="attention", outs=("N", rows), ins=("D", columns), layer=0)


def sizes(config, rows, columns, default):
    """Bytes of the tensors that a scheme stores for one matrix."""
    store = quant.recipe(config, checkpoint=False).store
    return [
        FORMATS[p.format or default].nbytes(math.prod([n for _, n in p.axes])) for p in store(matrix(rows, columns))
    ]


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_quantize_dynamic(tmp_path, rows, columns, by_channel, bias):
    from torch.ao import quantization as ao

    model = torch.nn.Sequential(torch.nn.Linear(columns, rows, bias=bias))
    setting = ao.per_channel_dynamic_qconfig if by_channel else ao.default_dynamic_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = ao.quantize_dynamic(model, {torch.nn.Linear: setting})
        torch.save(made.state_dict(), tmp_path / "d.pt")
    found = [i.file_size for i in zipfile.ZipFile(tmp_path / "d.pt").infolist() if "/data/" in i.filename]
    ours = sizes({"quant_method": "torch-dynamic", "per_channel": by_channel}, rows, columns, "fp32")
    assert sorted(ours + ([4 * rows] if bias else [])) == sorted(found)


def test_dynamic_int8_keeps_embeddings_and_unties_the_head():
    from tonnage import api
    from tonnage.memory.weights import stored, total

    model = api.load("gpt2")
    parts = stored(model, FORMATS["fp32"], quant.recipe(quant.called("dynamic-int8"), checkpoint=False))
    head = 50257 * 768
    # GPT-2's own matrices are no linear modules, so that the head alone is packed, beside the table that it shared.
    assert total(parts).requested == 4 * model.parameters.total + head + 12


@pytest.mark.parametrize("form", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_sparse_layouts(rows, columns, density, form):
    from torch.nn.utils import prune

    layer = torch.nn.Linear(columns, rows).to(form)
    torch.nn.init.uniform_(layer.weight, 1, 2)
    prune.random_unstructured(layer, "weight", amount=1 - density)
    w, name = layer.weight.detach(), storage_format(str(form)).name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows_of, pairs = w.to_sparse_csr(), w.to_sparse()
    given = {"quant_method": "pruned", "density": density}
    theirs = [t.untyped_storage().nbytes() for t in (rows_of.values(), rows_of.col_indices(), rows_of.crow_indices())]
    assert sizes({**given, "layout": "csr"}, rows, columns, name) == theirs
    indices = rows_of.crow_indices().int(), rows_of.col_indices().int()
    narrow = torch.sparse_csr_tensor(*indices, rows_of.values(), check_invariants=True)
    theirs = [t.untyped_storage().nbytes() for t in (narrow.values(), narrow.col_indices(), narrow.crow_indices())]
    assert sizes({**given, "layout": "csr", "index_dtype": "int32"}, rows, columns, name) == theirs
    theirs = [t.untyped_storage().nbytes() for t in (pairs.values(), pairs.indices())]
    assert sizes({**given, "layout": "coo"}, rows, columns, name) == theirs
    theirs = [t.nbytes for t in (layer.weight_orig, layer.weight_mask, layer.weight)]
    assert sizes({**given, "layout": "masked"}, rows, columns, name) == theirs


@pytest.mark.parametrize(
    ("layout", "index", "even"), [("csr", "int64", 1 / 9), ("csr", "int32", 1 / 3), ("coo", "int64", 1 / 9)]
)
def test_densities_at_which_sparse_storage_breaks_even(layout, index, even):
    dense = 4096 * 4096 * 2
    for density, smaller in ((even * 0.98, True), (even * 1.02, False)):
        config = {"quant_method": "pruned", "layout": layout, "density": density, "index_dtype": index}
        assert (sum(sizes(config, 4096, 4096, "bf16")) < dense) is smaller


@pytest.mark.parametrize(("rows", "columns"), SHAPES[1:])
def test_two_of_four_as_cutlass_packs_it(rows, columns):
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

    dense = torch.zeros(rows, columns, dtype=torch.bfloat16)
    dense[:, ::4] = 1
    dense[:, 1::4] = 2
    values, places = sparse_semi_structured_from_dense_cutlass(dense)
    ours = sizes({"quant_method": "semi-structured"}, rows, columns, "bf16")
    assert ours == [values.nbytes, places.nbytes]
    assert sum(ours) * 16 == dense.nbytes * 9


def test_tiles_are_those_of_torch():
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

    from tonnage.quant.semi_structured import TILES

    for backend, theirs in (
        ("cutlass", SparseSemiStructuredTensorCUTLASS),
        ("cusparselt", SparseSemiStructuredTensorCUSPARSELT),
    ):
        for form in (torch.float16, torch.bfloat16):
            limits = theirs._DTYPE_SHAPE_CONSTRAINTS[form]
            assert TILES[backend] == (limits.sparse_min_rows, limits.sparse_min_cols)

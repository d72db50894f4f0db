"""Laws of placement, for any sizes and degrees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage import api
from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.errors import InputError, UnsupportedError
from tonnage.placement.mesh import Mesh
from tonnage.placement.sharding import check, cuts, largest_shard, resolve, shard, stage, stage_layers
from tonnage.placement.zero import DIVIDED, flat_shard, share
from tonnage.tensors import Tensor, numel

heads = st.sampled_from([1, 2, 8, 16, 64])
degrees = st.sampled_from([1, 2, 3, 4, 6, 8, 16])
sizes = st.integers(1, 10_000)

LATENT = Latent(name="attn", D=7168, N=128, q_rank=1536, kv_rank=512, nope=128, rope=64, VH=128)
PLAIN = {"model_type": "plain", "hidden": 64, "layers": 6, "heads": 4, "vocab": 100}


def attention(K: int) -> GroupedQuery:
    return GroupedQuery(name="attn", D=4096, N=64, K=K, H=128)


def experts(E: int, F: int) -> tuple[Tensor, ...]:
    return (
        Tensor("up", (("E", E), ("F", F), ("D", 16)), "expert"),
        Tensor("down", (("F", F), ("D", 16)), "feed_forward"),
    )


# Cuts along axes


@given(K=heads, tp=heads, S=sizes)
def test_shards_cover_the_whole(K: int, tp: int, S: int) -> None:
    whole = tuple(attention(K).state(B=1, S=S))
    part = shard(whole, Mesh(tp=tp))
    assert numel(part) * tp >= numel(whole)
    assert tp > K or numel(part) * tp == numel(whole)
    assert shard(whole, Mesh()) == whole


@given(n=sizes, tp=degrees)
def test_any_axis_is_covered_and_padded_by_less_than_one_row_a_rank(n: int, tp: int) -> None:
    rows = dict(largest_shard(Tensor("w", (("F", n),), "feed_forward"), {"F": tp}).axes)["F"]
    assert n <= rows * tp < n + tp
    assert n % tp or rows * tp == n


@given(tp=heads)
def test_latent_cache_ignores_tensor_parallelism(tp: int) -> None:
    whole = tuple(LATENT.state(B=1, S=100))
    assert numel(shard(whole, Mesh(tp=tp))) == numel(whole)


@given(B=st.integers(1, 64), S=sizes, dp=degrees, cp=degrees)
def test_sequences_are_cut_by_dp_and_their_tokens_by_cp(B: int, S: int, dp: int, cp: int) -> None:
    whole = tuple(LATENT.state(B=B, S=S))
    axes = dict(shard(whole, Mesh(dp=dp, cp=cp))[0].axes)
    assert (axes["B"], axes["S"]) == (-(-B // dp), -(-S // cp))


@given(T=sizes, cp=degrees, tp=degrees)
def test_sequence_parallelism_never_adds(T: int, cp: int, tp: int) -> None:
    residual = (Tensor("x", (("B", 1), ("Tn", T), ("D", 8)), "activation"),)
    without = numel(shard(residual, Mesh(cp=cp, tp=tp)))
    with_it = numel(shard(residual, Mesh(cp=cp, tp=tp, sequence_parallel=True)))
    assert with_it <= without
    assert with_it * cp * tp >= numel(residual)


@given(K=heads, tp=heads)
def test_packed_heads_are_cut_as_separate_ones(K: int, tp: int) -> None:
    D, H, N = 128, 16, 64
    apart = GroupedQuery(name="a", D=D, N=N, K=K, H=H)
    packed = GroupedQuery(name="a", D=D, N=N, K=K, H=H, fused="qkv")
    assert numel(shard(packed.weights(), Mesh(tp=tp))) == numel(shard(apart.weights(), Mesh(tp=tp)))


# Experts see the same ranks differently


@given(dp=degrees, cp=degrees, tp=degrees, ep=degrees)
def test_both_views_have_the_same_ranks(dp: int, cp: int, tp: int, ep: int) -> None:
    if dp * cp * tp % ep:
        with pytest.raises(InputError, match="ep"):
            Mesh(dp=dp, cp=cp, tp=tp, ep=ep)
        return
    mesh = Mesh(dp=dp, cp=cp, tp=tp, ep=ep)
    assert mesh.shards * mesh.tp == mesh.expert_shards * mesh.ep * mesh.etp == mesh.world


@given(E=st.sampled_from([8, 256]), F=st.sampled_from([16, 48]), ep=st.sampled_from([2, 8]), tp=st.sampled_from([1, 4]))
def test_expert_parallelism_takes_the_place_of_tensor_parallelism(E: int, F: int, ep: int, tp: int) -> None:
    up, down = shard(experts(E, F), Mesh(dp=8, tp=tp, ep=ep))
    assert up.axes == (("E", E // ep), ("F", F), ("D", 16))
    assert down.axes == (("F", F // tp), ("D", 16))


def test_without_expert_parallelism_experts_are_cut_like_the_rest() -> None:
    up, down = shard(experts(8, 48), Mesh(tp=4))
    assert (dict(up.axes)["F"], dict(down.axes)["F"], dict(up.axes)["E"]) == (12, 12, 8)


def test_the_table_lists_only_letters_of_the_notation() -> None:
    from tonnage import tensors

    letters = {word for line in (tensors.__doc__ or "").splitlines() for word in line.split() if len(word) <= 2}
    table = cuts(Mesh())
    assert set(table.dense) | set(table.expert) <= letters
    assert set(table.dense.values()) | set(table.expert.values()) == {1}


# Pipeline stages and tied tensors


@given(L=st.integers(1, 200), pp=st.integers(1, 64))
def test_stages_hold_every_layer_once(L: int, pp: int) -> None:
    if pp > L:
        with pytest.raises(InputError, match="pp"):
            stage_layers(L, Mesh(pp=pp), 0)
        return
    stages = [stage_layers(L, Mesh(pp=pp), i) for i in range(pp)]
    assert [i for s in stages for i in s] == list(range(L))
    assert max(map(len, stages)) - min(map(len, stages)) <= 1


@given(pp=st.integers(1, 6), tied=st.booleans())
def test_tied_embeddings_under_pipeline_parallelism_are_two_copies(pp: int, tied: bool) -> None:
    model = api.load({"config": {**PLAIN, "tied": tied}})
    whole = tuple(model.weights())
    table = 100 * 64
    held = sum(numel(resolve(stage(whole, Mesh(pp=pp), i))) for i in range(pp))
    assert held == model.parameters.total + (table if tied and pp > 1 else 0)


def test_first_and_last_stage_hold_what_stands_around_the_layers() -> None:
    whole = tuple(api.load("gpt2").weights())
    first, last = (resolve(stage(whole, Mesh(pp=2), i)) for i in (0, 1))
    ends = [[t.name.removeprefix("transformer.") for t in s if t.layer is None] for s in (first, last)]
    assert ends == [["wte.weight", "wpe.weight"], ["ln_f.weight", "ln_f.bias", "lm_head.weight"]]
    assert {t.layer for t in first} | {t.layer for t in last} == {None, *range(12)}


def test_one_rank_keeps_its_aliases() -> None:
    whole = tuple(api.load("gpt2").weights())
    assert resolve(whole) == whole
    assert numel(resolve(whole)) == 124_439_808


def test_several_aliases_of_what_is_elsewhere_are_one_copy() -> None:
    axes = (("V", 8), ("D", 2))
    rank = (Tensor("a", axes, "embedding", alias_of="far"), Tensor("b", axes, "head", alias_of="a"))
    assert [t.alias_of for t in resolve(rank)] == [None, "a"]
    again = (Tensor("a", axes, "embedding", alias_of="far"), Tensor("b", axes, "head", alias_of="far"))
    assert [t.alias_of for t in resolve(again)] == [None, "a"]


def test_two_stacks_are_not_cut_into_stages() -> None:
    axes = (("D", 2),)
    both = tuple(Tensor(f"{s}{i}", axes, "norm", layer=i) for s in ("encoder", "decoder") for i in range(2))
    with pytest.raises(UnsupportedError):
        stage(both, Mesh(pp=2), 0)


# Flat shards


@given(n=st.lists(sizes, min_size=1, max_size=8), dp=degrees, zero=st.sampled_from(sorted(DIVIDED)))
def test_flat_shards_cover_the_whole(n: list[int], dp: int, zero: int) -> None:
    parameters = tuple(Tensor(f"w{i}", (("D", m),), "norm") for i, m in enumerate(n))
    for part in ("weights", "gradients", "optimizer_state", "master_weights"):
        held = share(parameters, Mesh(dp=dp), zero, part)  # type: ignore[arg-type]
        if part not in DIVIDED[zero]:
            assert held == sum(n)
            continue
        assert sum(n) <= held * dp < sum(n) + dp * (len(n) if zero == 3 else 1)
        assert any(m % dp for m in n) or held * dp == sum(n)
    assert share(parameters, Mesh(), zero, "weights") == sum(n)


@given(n=st.integers(0, 10**12), ranks=st.integers(1, 10**5))
def test_a_flat_shard_is_padded_by_less_than_a_rank(n: int, ranks: int) -> None:
    assert n <= flat_shard(n, ranks) * ranks < n + ranks


def test_each_stage_divides_more() -> None:
    assert [len(DIVIDED[s]) for s in range(4)] == [0, 2, 3, 4]
    assert all(DIVIDED[s] < DIVIDED[s + 1] for s in range(3))


def test_experts_are_sharded_over_the_ranks_that_are_left() -> None:
    mesh = Mesh(dp=4, tp=2, ep=4)
    held = shard(experts(8, 48), mesh)
    up, down = (t.numel for t in held)
    assert (mesh.shards, mesh.expert_shards) == (4, 2)
    assert share(held, mesh, 3, "weights") == up // 2 + down // 4


def test_replicas_do_not_shard() -> None:
    w = (Tensor("w", (("D", 1024),), "norm"),)
    assert share(w, Mesh(dp=8, dp_replicate=2), 3, "weights") == 1024 // 4


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(InputError):
        share((), Mesh(), 4, "weights")


# What must divide


@pytest.mark.parametrize(
    ("degrees", "key"),
    [
        ({"tp": 0}, "tp"), ({"pp": -1}, "pp"), ({"dp": True}, "dp"), ({"cp": 1.5}, "cp"), ({"ep": 3, "dp": 4}, "ep"),
        ({"dp": 4, "dp_replicate": 3}, "dp_replicate"),
    ],
)  # fmt: skip
def test_a_mesh_is_checked(degrees: dict[str, int], key: str) -> None:
    with pytest.raises(InputError) as e:
        Mesh(**degrees)
    assert e.value.key == key


@pytest.mark.parametrize("mesh", [Mesh(tp=3), Mesh(tp=64), Mesh(tp=12)])
def test_heads_and_widths_must_divide(mesh: Mesh) -> None:
    with pytest.raises(InputError) as e:
        check(api.load("llama-3.1-8b").weights(), mesh)
    assert e.value.key == "tp"


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16, 32])
def test_more_ranks_than_key_value_heads_are_allowed(tp: int) -> None:
    check(api.load("llama-3.1-8b").weights(), Mesh(tp=tp))


def test_experts_must_divide() -> None:
    weights = tuple(api.load("mixtral-8x7b").weights())
    check(weights, Mesh(dp=8, ep=8))
    with pytest.raises(InputError) as e:
        check(weights, Mesh(dp=16, ep=16))
    assert e.value.key == "ep"


def test_lengths_must_divide() -> None:
    Mesh(cp=4, tp=2, sequence_parallel=True).takes(4096)
    with pytest.raises(InputError, match="16 equal pieces"):
        Mesh(cp=4, tp=2, sequence_parallel=True).takes(4100)

"""The command line: exit codes, one line for what is wrong, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tonnage.cli import VERBS, main


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("code", "argv"),
    [
        (0, "train llama-3.1-8b --gpu h100-sxm-80gb"),
        (1, "train llama-3.1-8b --gpu 24GiB"),
        (0, "train llama-3.1-8b --gpu 65GiB"),
        (1, "train llama-3.1-8b --gpu 65GiB --strict"),
        (0, "train gpt2"),
        (1, "train gpt2 --gpu 8GiB --in-use 8000MiB"),
        (0, "serve deepseek-v3 --context 32k"),
        (0, "params --hidden 768 --layers 12 --heads 12 --vocab 50257"),
        (0, "devices h100"),
        (0, "models gpt"),
        (0, "--version"),
        (0, "--help"),
        (0, "train --help"),
        (0, ""),
    ],
)
def test_exit_code(capsys: pytest.CaptureFixture[str], code: int, argv: str) -> None:
    assert run(capsys, *argv.split())[0] == code


WRONG = [
    (2, "train lama-3.1-8b", "llama-3.1-8b"),
    (2, "train llama-3.1-8b --gpu h10", "h100"),
    (2, "train llama-3.1-8b --gpu 80", "80GiB"),
    (2, "train llama-3.1-8b --gpu nanGiB", "a size such as 24GiB"),
    (2, "train llama-3.1-8b --gpu 0GiB", "sensible"),
    (2, "train llama-3.1-8b --gpu 99999999999TiB", "sensible"),
    (2, "train llama-3.1-8b --seq -5", "not a count"),
    (2, "train llama-3.1-8b --seq 0", "sensible"),
    (2, "train llama-3.1-8b --seq NaN", "not a count"),
    (2, "train llama-3.1-8b --batch 1e99", "not a count"),
    (2, "train llama-3.1-8b --batch two", "not a count"),
    (2, "train llama-3.1-8b --precision bf17", "bf16"),
    (2, "train llama-3.1-8b --attention flsh", "flash"),
    (2, "train llama-3.1-8b --optimizer adamx", "adamw"),
    (2, "train llama-3.1-8b --stack transfomers", "transformers"),
    (2, "train llama-3.1-8b --dtype float17", "float"),
    (2, "train llama-3.1-8b --recompute most", "full"),
    (2, "train llama-3.1-8b --gpuu h100", "no such option"),
    (2, "trian llama-3.1-8b", "no such command"),
    (2, "train llama-3.1-8b extra", "unexpected extra argument"),
    (2, "train", "no model is named"),
    (2, "train llama-3.1-8b --hidden 768", "--hidden"),
    (2, "params --hidden 768", "--layers"),
    (2, "params --hidden 768 --layers 12 --heads 7 --vocab 100", "divide"),
    (2, "serve gpt2 --prompt 900 --context 800", "prompt"),
    (2, "serve llama-3.1-8b --in-use 5 --gpu 24GiB", "unit"),
    (2, "params llama-3.1-8b --head casual", "causal"),
    (3, "train llama-3.1-8b --gpus 8", "several devices"),
    (3, "train llama-3.1-8b --tp 2", "several devices"),
    (3, "train llama-3.1-8b --sharding fsdp", "several devices"),
    (2, "train llama-3.1-8b --lora-targets q_proj", "lora_rank"),
    (3, "train llama-3.1-8b --quant nf4", "not trained themselves"),
    (2, "train llama-3.1-8b --optimizer sophiaz", "sophia"),
    (3, "train llama-3.1-8b --optimizer q-galore --lora-rank 8", "lora_rank"),
    (3, "train llama-3.1-8b --optimizer q-galore --precision bf16-mixed", "autocast"),
    (2, "train gpt2 --optimizer q-galore", "q_proj"),
    (2, "train smollm2-135m --optimizer q-galore --optimizer-rank 3", "groups of 256"),
    (2, "train llama-3.1-8b --optimizer-rank 8", "projects nothing"),
    (2, "train qwen3.5-35b-a3b --recompute core_attn", "no layer of"),
    (2, "train llama-3.1-8b --optimizer lomo --accumulate 2", "accumulate"),
    (2, "train llama-3.1-8b --optimizer lomo --clip-grad-norm", "clip_grad_norm"),
    (2, "train llama-3.1-8b --precision fp8 --seq 77", "multiples of 16"),
    (3, "train mixtral-8x7b --precision fp8", "experts"),
    (3, "train llama-3.1-8b --precision fp8 --lora-rank 8", "lora_rank"),
    (2, "train llama-3.1-8b --fp8-recipe rowwise", "fp8_recipe"),
    (2, "train llama-3.1-8b --precision fp8 --fp8-recipe te", "te-delayed"),
    (2, "train llama-3.1-8b --loss sliced", "loss"),
    (3, "train mixtral-8x7b --quant nf4 --lora-rank 8 --stack-version 4.48", "modules of their own"),
    (2, "train llama-3.1-8b --kernels liger:rops", "did you mean rope"),
    (2, "train llama-3.1-8b --kernels liger:", "liger:rms_norm+rope+swiglu"),
    (2, "train llama-3.1-8b --images 2", "sees no pictures"),
    (3, "train exaone-4.5-33b --images 1", "not modelled yet"),
    (3, "train llama-4-scout-17b-16e --kernels liger", "not modelled for llama4"),
    (3, "train mixtral-8x7b --kernels liger==0.7.0", "one after the other"),
    (3, "train mixtral-8x7b --kernels liger --lora-rank 8 --lora-targets all-linear", "lora-targets"),
    (3, "train llama-3.1-8b --stack megatron", "megatron"),
    (3, "train llama-3.1-8b --compile --kernels liger", "compile is not modelled with kernels"),
    (3, "train llama-3.1-8b --compile --recompute selective", "compile is not modelled with recompute"),
    (3, "train llama-3.1-8b --compile --attention eager", "inductor"),
    (3, "train llama-3.1-8b --compile --lora-rank 8 --adapter dora", "compile is not modelled with adapter"),
    (3, "train llama-3.1-8b --compile --lora-rank 8 --stack torchtune", "compile is not modelled with adapter"),
    (3, "train llama-3.1-8b --compile --freeze-layers 0-3", "compile is not modelled with freeze_layers"),
    (3, "train mixtral-8x7b --compile --experts eager", "blocks of mixtral"),
    (3, "train mixtral-8x7b --compile --stack torchtitan", "blocks of mixtral"),
    (3, "train gpt-oss-20b --compile", "blocks of gpt_oss"),
    (3, "train llama-3.1-8b --compile --quant nf4 --lora-rank 8 --stack torchtune", "compile is not modelled with"),
    (3, "train t5-small --compile", "compile is not modelled with model"),
    (3, "train llama-3.1-8b --compile --stack litgpt", "compile is not modelled for litgpt"),
    (3, "train gpt2 --attention flex", "flex attention is not modelled for gpt2"),
    (3, "train llama-3.1-8b --attention flex --stack litgpt", "litgpt does not call flex attention"),
    (3, "train llama-3.1-8b --attention flex --stack torchtune --compile", "breaks each layer's graph"),
    (3, "train llama-3.1-8b --attention flex --stack torchtitan --recompute selective", "selective checkpoint"),
    (3, "train gemma-2-2b --attention flex --stack torchtune", "own attention is not modelled for gemma2"),
    (2, "train llama-3.1-8b --attention flex --stack torchtune --gpu v100-sxm2-16gb", "from sm_75 on"),
    (2, "train starcoder2-3b --attention flex", "no dropout of attention weights"),
    (3, "serve llama-3.1-8b --attention flex --engine transformers", "not modelled in serving"),
    (3, "train llama-3.1-8b --stack-version 3", "modelled"),
    (3, "serve gemma-3-1b --engine executorch", "exported program"),
    (3, "serve llama-3.2-1b --engine executorch --backend qnn", "its own compiler"),
    (2, "serve llama-3.2-1b --engine executorch --context 64 --max-seq-length 65", "must be >= max_seq_len"),
    (2, "serve llama-3.2-1b --engine executorch --max-seq-length 3", "traces 3 tokens"),
    (2, "serve llama-3.2-1b --engine executorch --group-size 32", "without a qmode"),
    (2, "serve llama-3.2-1b --engine executorch --embedding-quantize 5,32", "2, 4 or 8 bits"),
    (2, "serve llama-3.2-1b --engine mlx --qmode 8da4w", "no such setting"),
    (2, "serve llama-3.2-1b --engine mlx --quant mlx-7bit", "unknown quantization"),
    (2, "serve llama-3.2-1b --engine mlx --prefill-step-size 0", "sensible count"),
    (2, "serve llama-3.2-1b --engine lmstudio --quant q4_k_m --gpu-ratio 1.5", "0 to 1"),
    (2, "serve llama-3.2-1b --gpu phone-5gb", "phone-5gb"),
    (3, "serve llama-3.1-8b --kv-dtype fp8", "kv_dtype"),
    (3, "serve gpt2 --context 2048", "1,024 positions"),
    (3, "train gpt2 --seq 2000", "1,024 positions"),
    (3, "train t5-small --loss fused", "encoder-decoder"),
    (3, "train t5-small --recompute reentrant", "encoder-decoder"),
    (4, "params meta-llama/No-Such-Model", "Hub"),
    (4, "params model.safetensors", "cannot read"),
    (2, "params http://example.com/config.json", "https"),
    (4, "params ./nowhere/config.json", "cannot read"),
    (4, "params nowhere.json", "cannot read"),
]


@pytest.mark.parametrize(("code", "argv", "told"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong_input_gets_one_line(capsys: pytest.CaptureFixture[str], code: int, argv: str, told: str) -> None:
    got, out, err = run(capsys, *argv.split())
    assert got == code
    assert out == ""
    assert err.count("\n") == 1
    assert told.lower() in err.lower()
    assert "Traceback" not in err


@pytest.mark.parametrize(("code", "argv", "told"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong_input_as_json(capsys: pytest.CaptureFixture[str], code: int, argv: str, told: str) -> None:
    got, out, err = run(capsys, *argv.split(), "--json")
    if "--json" in err or "no such" in err.lower():
        return
    assert got == code
    error = json.loads(out)["error"]
    assert set(error) == {"category", "key", "value", "file", "message", "hint", "nearest"}
    assert error["message"]


LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100,
    "num_hidden_layers": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "content", "told"),
    [
        (0, json.dumps(LLAMA), ""),
        (0, "\ufeff" + json.dumps(LLAMA), ""),
        (2, json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}), "hidden_size is missing"),
        (2, json.dumps({**LLAMA, "hiden_size": 1} | {"hidden_size": None}), "hiden_size"),
        (2, json.dumps({**LLAMA, "num_hidden_layers": "two"}), "num_hidden_layers"),
        (2, json.dumps({**LLAMA, "num_hidden_layers": -2}), "num_hidden_layers"),
        (2, json.dumps({**LLAMA, "num_hidden_layers": 0}), "num_hidden_layers"),
        (2, json.dumps({**LLAMA, "vocab_size": True}), "vocab_size"),
        (2, json.dumps({**LLAMA, "vocab_size": 10**30}), "vocab_size"),
        (2, json.dumps({**LLAMA, "num_attention_heads": 7}), "divide"),
        (2, json.dumps({**LLAMA, "novel_key": 3, "other": [1]}), "--ignore-key novel_key --ignore-key other"),
        (2, '{"model_type": "llama", "hidden_size": NaN}', "hidden_size"),
        (2, "{", "not JSON"),
        (2, "[1, 2]", "object"),
        (2, "[" * 100_000, "not"),
        (2, json.dumps({"hidden_size": 3}), "model_type"),
        (3, json.dumps({**LLAMA, "model_type": "lama"}), "llama"),
        (3, json.dumps({**LLAMA, "architectures": ["LlamaForTokenClassification"]}), "LlamaForTokenClassification"),
    ],
)
def test_configs(tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, content: str, told: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content, encoding="utf-8")
    for path in (file, tmp_path):
        got, _, err = run(capsys, "params", str(path))
        assert got == code
        assert told in err
        assert err.count("\n") == (1 if code else 0)


def test_hostile_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as f:
        f.truncate(100 * 2**20)
    assert run(capsys, "params", str(large))[0] == 2
    (tmp_path / "latin.json").write_bytes(b'{"model_type": "ll\xe4ma"}')
    code, _, err = run(capsys, "params", str(tmp_path / "latin.json"))
    assert (code, err.count("\n")) == (2, 1)
    assert "UTF-8" in err
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "params", str(tmp_path / "empty"))
    assert (code, err.count("\n")) == (4, 1)
    assert "config.json" in err


def test_unread_keys_can_be_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**LLAMA, "novel_key": 3}))
    code, out, _ = run(capsys, "train", str(file), "--ignore-unknown", "--gpu", "24GiB", "--json")
    result = json.loads(out)
    assert (code, result["ignored"], result["fit"]["verdict"]) == (0, ["novel_key"], "uncertain")
    assert run(capsys, "params", str(file), "--ignore-key", "novel_key")[0] == 0


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_documented(verb: str) -> None:
    root = Path(__file__).parents[1]
    assert f"tonnage {verb}" in (root / "README.md").read_text()


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ("params gpt2", "devices h100", "models gpt2", "serve gpt2", "train gpt2"):
        code, out, _ = run(capsys, *argv.split(), "--json")
        assert code == 0
        assert json.loads(out)["schema"] == 1
        assert out.count("\n") == 1


def test_a_device_says_what_it_gives(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "devices", "h100-sxm-80gb", "--json")
    row = next(d for d in json.loads(out)["devices"] if d["name"] == "h100-sxm-80gb")
    assert row["driver_bytes"] == 81_559 * 2**20
    assert row["usable_bytes"] == pytest.approx(79.18 * 2**30, rel=1e-3)

"""How fast does weft decode on a CPU, beside transformers and beside what the memory allows?

    python bench/cpu_decode.py [--batch 1 8] [--input 128] [--output 64] [--rounds 3] [--json]

A model with the shape of Qwen3-0.6B and random weights, bf16, on all cores that the process may use. Both sides answer
the same prompts greedily and ignore the end of text; they take turns, `rounds` times, and times are medians over the
rounds. First the results are checked: two layers of the same shape, saved as safetensors, must give the same
log-probabilities, and the same greedy token wherever the first leads the second by more than that bound.

    tok/s      batch * output / time of the whole call, prompts included
    step_ms    (time for `output` tokens - time for 1 token) / (output - 1): one decode step
    ratio      transformers' time / weft's: above 1, weft is faster; `all` of the call, `step` of a decode step
    GB         bytes that a decode step must read: the weights once, and on average the keys and values of
               batch * (input + output / 2) tokens
    GB/s       the rate at which these cores together read a buffer of 1 GiB: the best of ten reads just before and
               after weft's turn
    floor_ms   GB / that rate
    of_floor   floor_ms / weft's step_ms, round by round, then the median: 100 % is a step that does nothing but read
               what it must

Needs torch and transformers. On a busy machine `chrt -f 20` in front of the command gives it the cores.
"""

import argparse
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import transformers
from common import commit, cpu_name

import weft

SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
    "eos_token_id": None,
    "bos_token_id": None,
}
CONTEXT = 512
BF16_BYTES = 2
# Of a token's log-probability, weft's against transformers', which rounds bf16 logits to 8 bits: up to 0.03 near 8.
MAX_ERROR = {"float32": 3e-4, "bfloat16": 0.15}

Prompts = list[list[int]]


def timed(call: Callable[..., object], *args: object) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def make_model(dtype: str, **changes: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**(SHAPE | {"dtype": dtype} | changes))
    return transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def make_prompts(count: int, length: int) -> Prompts:
    generator = torch.Generator().manual_seed(count)
    ids: Prompts = torch.randint(0, SHAPE["vocab_size"], (count, length), generator=generator).tolist()
    return ids


def make_engine(directory: str, load_format: str, dtype: str, max_batch: int) -> weft.Engine:
    return weft.Engine(
        model_path=directory,
        skip_tokenizer_init=True,
        load_format=load_format,
        dtype=dtype,
        device="cpu",
        context_length=CONTEXT,
        max_running_requests=max_batch,
    )


def ask_weft(engine: weft.Engine, prompts: Prompts, output: int, logprobs: bool = False) -> list[weft.GenerateOutput]:
    params = {"temperature": 0.0, "max_new_tokens": output, "ignore_eos": True}
    answers = engine.generate(input_ids=prompts, sampling_params=params, return_logprob=logprobs)
    if any(len(answer["output_ids"]) != output for answer in answers):
        sys.exit("cpu_decode: weft gave another number of tokens than asked for")
    return answers


@torch.inference_mode()
def ask_transformers(model: transformers.PreTrainedModel, prompts: Prompts, output: int) -> None:
    ids = torch.tensor(prompts)
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=transformers.GenerationConfig(max_new_tokens=output, do_sample=False),
    )
    if made.shape[1] != ids.shape[1] + output:
        sys.exit("cpu_decode: transformers gave another number of tokens than asked for")


@torch.inference_mode()
def check(dtype: str) -> float:
    """Two layers, three prompts: the largest difference of a log-probability. Stops the program if it is too large."""
    model = make_model(dtype, num_hidden_layers=2, initializer_range=0.05)
    prompts = [prompt[:length] for prompt, length in zip(make_prompts(3, 128), (128, 61, 7), strict=True)]
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        with make_engine(directory, "safetensors", dtype, len(prompts)) as engine:
            answers = ask_weft(engine, prompts, 16, logprobs=True)
    worst = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = answer["output_ids"]
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits.float(), dim=-1)
        for row, token, (logprob, _, _) in zip(
            expected, tokens, answer["meta_info"]["output_token_logprobs"], strict=True
        ):
            worst = max(worst, abs(row[token].item() - logprob))
            if row.max().item() - row[token].item() > MAX_ERROR[dtype]:
                sys.exit(f"cpu_decode: {dtype}: weft chose token {token}, transformers {row.argmax().item()}")
    if worst > MAX_ERROR[dtype]:
        sys.exit(f"cpu_decode: {dtype}: a log-probability is wrong by {worst}")
    return worst


class ReadRate:
    """Reads a buffer of 1 GiB, in huge pages as weft's weights are, with all cores."""

    def __init__(self) -> None:
        memory = mmap.mmap(-1, 1 << 30)
        memory.madvise(mmap.MADV_HUGEPAGE)
        self.buffer = torch.frombuffer(memory, dtype=torch.float32).fill_(1.0)

    def sample(self) -> float:
        """GB/s of the fastest of five reads."""
        return self.buffer.nbytes / min(timed(self.buffer.sum) for _ in range(5)) / 1e9


def step_bytes(batch: int, length: float) -> float:
    """Bytes of weights and of the cache that a decode step reads; `length`: tokens of a request."""
    hidden, layers, head = SHAPE["hidden_size"], SHAPE["num_hidden_layers"], SHAPE["head_dim"]
    query, kv = SHAPE["num_attention_heads"] * head, SHAPE["num_key_value_heads"] * head
    layer = hidden * (query + 2 * kv) + query * hidden + 3 * hidden * SHAPE["intermediate_size"]
    return float(BF16_BYTES * (layers * layer + SHAPE["vocab_size"] * hidden + layers * 2 * kv * batch * length))


def measure(batches: Sequence[int], input_len: int, output: int, rounds: int) -> list[dict[str, float]]:
    read_rate = ReadRate()
    prompts = {batch: make_prompts(batch, input_len) for batch in batches}
    seconds: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    rates: dict[int, list[float]] = defaultdict(list)
    model = make_model("bfloat16")
    with tempfile.TemporaryDirectory() as directory:
        model.config.save_pretrained(directory)
        with make_engine(directory, "dummy", "bfloat16", max(batches)) as engine:
            sides = {"weft": (ask_weft, engine), "transformers": (ask_transformers, model)}
            for batch in batches:  # a few tokens to warm up
                for ask, what in sides.values():
                    ask(what, prompts[batch], 4)
            for _ in range(rounds):
                for batch in batches:
                    before = read_rate.sample()
                    for side, (ask, what) in sides.items():
                        for tokens in (1, output):
                            time.sleep(0.05)  # PyTorch's threads spin for a while before they sleep
                            seconds[side, batch, tokens].append(timed(ask, what, prompts[batch], tokens))
                        if side == "weft":
                            time.sleep(0.05)
                            rates[batch].append(max(before, read_rate.sample()))
    rows = []
    for batch in batches:
        row: dict[str, float] = {"batch": batch}
        for side in sides:
            first, whole = (statistics.median(seconds[side, batch, tokens]) for tokens in (1, output))
            row[f"{side}_tok_per_s"] = batch * output / whole
            row[f"{side}_first_ms"] = 1e3 * first
            row[f"{side}_step_ms"] = 1e3 * (whole - first) / (output - 1)
        row["ratio_all"] = row["weft_tok_per_s"] / row["transformers_tok_per_s"]
        row["ratio_step"] = row["transformers_step_ms"] / row["weft_step_ms"]
        row["gb"] = step_bytes(batch, input_len + output / 2) / 1e9
        row["read_gb_per_s"] = statistics.median(rates[batch])
        row["floor_ms"] = row["gb"] / row["read_gb_per_s"] * 1e3
        firsts, wholes = seconds["weft", batch, 1], seconds["weft", batch, output]
        row["of_floor"] = statistics.median(
            row["gb"] / rate / ((whole - first) / (output - 1))
            for rate, first, whole in zip(rates[batch], firsts, wholes, strict=True)
        )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.output < 2 or options.input + options.output > CONTEXT:
        parser.error(f"--output must be at least 2, and --input and --output together at most {CONTEXT}")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    transformers.utils.logging.disable_progress_bar()
    load = os.getloadavg()[0]
    errors = {dtype: check(dtype) for dtype in MAX_ERROR}
    rows = measure(options.batch, options.input, options.output, options.rounds)
    about = {
        "machine": cpu_name(),
        "cores": cores,
        "commit": commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "scheduling": {os.SCHED_OTHER: "normal", os.SCHED_FIFO: "fifo", os.SCHED_RR: "rr"}.get(
            os.sched_getscheduler(0), "other"
        ),
        "max_err": errors,
        "input": options.input,
        "output": options.output,
        "rounds": options.rounds,
    }
    if options.json:
        print(json.dumps(about | {"rows": rows}))
        return
    print(
        f"{about['machine']}, {cores} cores, {about['scheduling']} scheduling, load {load:.1f} to "
        f"{about['load_after']:.1f}, commit {about['commit']}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}\n{options.input} in, {options.output} out, {options.rounds} rounds; "
        f"max_err {errors['float32']:.1e} in f32, {errors['bfloat16']:.1e} in bf16\n"
    )
    print("       |            weft            |        transformers        |    ratio    |")
    print("batch  |   tok/s  first_ms  step_ms |   tok/s  first_ms  step_ms |   all  step |", end="")
    print("    GB  GB/s  floor_ms  of_floor")
    for row in rows:
        print(f"{row['batch']:5}  |", end="")
        for side in ("weft", "transformers"):
            tok_per_s, first_ms, step_ms = (row[f"{side}_{what}"] for what in ("tok_per_s", "first_ms", "step_ms"))
            print(f" {tok_per_s:7.1f}  {first_ms:8.0f}  {step_ms:7.1f} |", end="")
        print(f" {row['ratio_all']:5.2f} {row['ratio_step']:5.2f} | {row['gb']:5.2f}", end="")
        print(f" {row['read_gb_per_s']:5.1f}  {row['floor_ms']:8.1f}  {row['of_floor']:8.0%}")


if __name__ == "__main__":
    main()

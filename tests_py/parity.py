"""Does an engine say what transformers says?"""

import random

import torch

LOGPROB_BOUND = 3e-4  # f32, whatever the layout
CLEAR_MARGIN = 1e-3  # between the two best tokens: then greedy choices must agree


def make_prompts(lengths, vocab_size, seed=0):
    """Random prompts of those lengths, without the ids that models reserve."""
    rng = random.Random(seed)
    return [[rng.randrange(3, vocab_size) for _ in range(length)] for length in lengths]


def check_parity(engine, tiny, prompts, max_new_tokens=8, bound=LOGPROB_BOUND):
    """Generate greedily; compare the log-probability of every prompt and output token, and the choices."""
    outputs = engine.generate(
        input_ids=prompts,
        sampling_params={"temperature": 0, "max_new_tokens": max_new_tokens, "ignore_eos": True},
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=2,
    )
    for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        check_output(tiny, prompt, output, max_new_tokens, bound, f"prompt {index} of {len(prompt)} tokens")
    return outputs


def logprob_errors(engine, tiny, prompts, max_new_tokens=8):
    """How far the log-probability of each prompt and output token is from the reference's: f32 [tokens]."""
    outputs = engine.generate(
        input_ids=prompts,
        sampling_params={"temperature": 0, "max_new_tokens": max_new_tokens, "ignore_eos": True},
        return_logprob=True,
        logprob_start_len=0,
    )
    errors = []
    for prompt, output in zip(prompts, outputs, strict=True):
        ids, meta = prompt + output["output_ids"], output["meta_info"]
        wanted = tiny.logprobs(ids)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        entries = [*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"]]
        errors.append((torch.tensor([value for value, _, _ in entries]) - wanted).abs())
    return torch.cat(errors)


def check_output(tiny, prompt, output, max_new_tokens, bound, what):
    ids, meta = output["output_ids"], output["meta_info"]
    assert len(ids) == max_new_tokens, f"{what}: {meta['finish_reason']}"
    reference = tiny.logprobs(prompt + ids)
    place = torch.arange(len(prompt) + len(ids) - 1)
    wanted = reference[place, torch.tensor((prompt + ids)[1:])]
    entries = [*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"]]
    assert [token for _, token, _ in entries] == (prompt + ids)[1:], what
    got = torch.tensor([value for value, _, _ in entries])
    error = (got - wanted).abs()
    worst = int(error.argmax())
    assert error.max() <= bound, (
        f"{what}: log p at position {worst + 1} of {len(prompt)} + {len(ids)} is {got[worst]}, not {wanted[worst]}"
    )
    for step, token in enumerate(ids):
        row = reference[len(prompt) - 1 + step]
        best = row.topk(2)
        if best.values[0] - best.values[1] > max(CLEAR_MARGIN, 2 * bound):
            assert token == int(best.indices[0]), f"{what}: token {step} is {token}, not {int(best.indices[0])}"
            (value, top_token, _), *_ = meta["output_top_logprobs"][step]
            assert (top_token, abs(value - float(best.values[0])) <= bound) == (token, True), what

"""Answer prompts from the command line: python -m weft.generate --model-path M --prompt "..." [server arguments]."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft.engine import Engine
from weft.errors import WeftError
from weft.flags import Parser
from weft.outputs import GenerateOutput
from weft.progress import Progress, note, run
from weft.server_args import ServerArgs


def main(argv: Sequence[str]) -> int:
    """Print the answers; return the exit status: 1 if a prompt was refused."""
    parser = Parser("python -m weft.generate", "Answer prompts. Answers go to stdout, progress to a terminal's stderr.")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be given several times")
    parser.add_argument(
        "--prompts-file", type=Path, help="a prompt a line; in a .jsonl file each line is a JSON string"
    )
    parser.add_argument("--chat", action="store_true", help="each prompt is a user's message of the chat template")
    parser.add_argument("--json", action="store_true", help="print one JSON object a prompt")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="(default: 128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="(default: 1)")
    parser.add_argument("--top-k", type=int, default=-1, help="-1: all (default: -1)")
    parser.add_argument("--min-p", type=float, default=0.0, help="(default: 0)")
    parser.add_argument("--seed", type=int, help="the same text each time")
    parser.add_argument("--stop", action="append", help="a string that ends an answer; may be given several times")
    ServerArgs.add_cli_args(parser)
    options = parser.parse(argv)
    args = ServerArgs.from_cli_args(options)
    prompts = [*options.prompt, *(read_prompts(options.prompts_file) if options.prompts_file else ())]
    if not prompts:
        raise WeftError("there is no prompt; give --prompt or --prompts-file")
    sampling = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "sampling_seed": options.seed,
        "stop": options.stop,
    }
    note(f"loading {args.model_path} on {args.place} ...")
    with Engine(args) as engine:
        if engine.tokenizer is None:
            raise WeftError("prompts are text, so --skip-tokenizer-init cannot be used here; remove it")
        tokenizer = engine.tokenizer
        ids = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}])
            if options.chat
            else tokenizer.encode(text)
            for text in prompts
        ]
        stream = engine.generate(input_ids=ids, sampling_params=sampling, stream=True)
        live = len(prompts) == 1 and not options.json and sys.stdout.isatty()
        outputs = list(show_live(stream) if live else collect(stream, len(prompts)))
    refused = False
    for prompt, output in zip(prompts, outputs, strict=True):
        reason = output["meta_info"]["finish_reason"]
        output.pop("index", None)
        if options.json:
            print(json.dumps({"prompt": prompt, **output}, ensure_ascii=False))
        elif not live:
            print(f"{prompt}\n{output['text']}\n" if len(prompts) > 1 else output["text"])
        if reason is not None and reason["type"] == "abort":
            refused = True
            print(f"error: prompt {prompt[:40]!r}: {reason['message']}", file=sys.stderr)
    return int(refused)


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        prompts = [json.loads(line) if path.suffix == ".jsonl" else line for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise WeftError(f"--prompts-file {path}: {error}") from error
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise WeftError(f"--prompts-file {path}: each line must be a JSON string")
    return prompts


def collect(stream: Iterator[GenerateOutput], count: int) -> list[GenerateOutput]:
    """The whole answers in the order of the prompts, with progress."""
    progress, start = Progress(count, "prompts"), time.perf_counter()
    last: dict[int, GenerateOutput] = {}
    done = 0
    for tokens, output in enumerate(stream, 1):
        last[output["index"]] = output
        done += output["meta_info"]["finish_reason"] is not None
        progress.show(done, f"{tokens / (time.perf_counter() - start):.0f} tokens/s")
    progress.clear()
    return [last[i] for i in range(count)]


def show_live(stream: Iterator[GenerateOutput]) -> list[GenerateOutput]:
    """Print one answer as it grows."""
    shown, output = "", None
    for output in stream:
        print(output["text"][len(shown) :], end="", flush=True)
        shown = output["text"]
    print()
    return [] if output is None else [output]


if __name__ == "__main__":
    sys.exit(run(main))

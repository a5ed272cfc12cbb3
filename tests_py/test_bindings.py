"""The compiled module is what its stub file says: names, parameters, defaults."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from weft import _weft

STUB = ast.parse((Path(__file__).parent.parent / "python" / "weft" / "_weft.pyi").read_text(encoding="utf-8"))


def functions(body):
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def is_property(node):
    return any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list)


STUB_CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def is_type_of_dicts(node):
    names = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return "TypedDict" in names or any(is_type_of_dicts(STUB_CLASSES[name]) for name in names if name in STUB_CLASSES)


CLASSES = {name: node for name, node in STUB_CLASSES.items() if not is_type_of_dicts(node)}
CALLABLES = {(None, name): node for name, node in functions(STUB.body).items()} | {
    (cls, name): node
    for cls, body in CLASSES.items()
    for name, node in functions(body.body).items()
    if not is_property(node)
}
PROPERTIES = {
    (cls, name) for cls, body in CLASSES.items() for name, node in functions(body.body).items() if is_property(node)
}


def members(body):
    return set(functions(body)) | {node.target.id for node in body if isinstance(node, ast.AnnAssign)}


def public(names):
    return {name for name in names if not name.startswith("_")}


def stub_parameters(node):
    """(name, keyword-only, whether there is a default), without self."""
    positional = [(arg.arg, False) for arg in node.args.args if arg.arg != "self"]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    keyword = [(arg.arg, True) for arg in node.args.kwonlyargs]
    pairs = list(zip(positional + keyword, defaults + list(node.args.kw_defaults), strict=True))
    return [(name, only, default is not None) for (name, only), default in pairs]


def stub_defaults(node):
    """Defaults that are literals: what the stub promises a caller who leaves them out."""
    positional = [arg.arg for arg in node.args.args][-len(node.args.defaults) :] if node.args.defaults else []
    pairs = [*zip(positional, node.args.defaults, strict=True)]
    pairs += [*zip([arg.arg for arg in node.args.kwonlyargs], node.args.kw_defaults, strict=True)]
    defaults = {}
    for name, default in pairs:
        try:
            defaults[name] = None if default is None else (ast.literal_eval(default),)
        except ValueError:  # an ellipsis, or a member of an enum
            defaults[name] = None
    return {name: default[0] for name, default in defaults.items() if default is not None and default[0] is not ...}


def module_parameters(function):
    """The same of a compiled function, from the first line that pybind11 writes of it."""
    signature = function.__doc__.splitlines()[0]
    arguments = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    found, keyword_only, depth, start = [], False, 0, 0
    for place, letter in enumerate(arguments + ","):
        depth += (letter in "[({<") - (letter in "])}>")
        if letter != "," or depth > 0:
            continue
        text = arguments[start:place].strip()
        start = place + 1
        if text == "*":
            keyword_only = True
        elif text and not text.startswith("self"):
            name, _, default = re.match(r"(\w+)(: .*?)?(?: = (.*))?$", text).groups()
            found.append((name, keyword_only, default))
    return found


def get(cls, name):
    return getattr(getattr(_weft, cls) if cls else _weft, name)


def test_the_module_has_the_names_of_the_stub_and_no_others():
    names = set(CLASSES) | set(functions(STUB.body))
    assert public(vars(_weft)) == public(names)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_members_of_the_stub_and_no_others(name):
    cls = getattr(_weft, name)
    if issubclass(cls, (int, BaseException)):
        pytest.skip("its members are inherited")
    assert public(vars(cls)) == public(members(CLASSES[name].body))


@pytest.mark.parametrize(("cls", "name"), PROPERTIES)
def test_a_property_is_one(cls, name):
    assert isinstance(inspect.getattr_static(getattr(_weft, cls), name), property)


@pytest.mark.parametrize(("cls", "name"), CALLABLES)
def test_parameters_are_those_of_the_stub(cls, name):
    mine = module_parameters(get(cls, name))
    assert [(n, only, default is not None) for n, only, default in mine] == stub_parameters(CALLABLES[cls, name])
    for parameter, promised in stub_defaults(CALLABLES[cls, name]).items():
        real = next(default for n, _, default in mine if n == parameter)
        value = ast.literal_eval(real)
        assert (tuple(value) if isinstance(value, list) else value) == promised, parameter


def test_errors_of_the_core_are_runtime_errors_of_one_type():
    assert issubclass(_weft.WeftError, RuntimeError)
    with pytest.raises(_weft.WeftError, match="/no/such"):
        _weft.Runtime(_weft.RuntimeConfig(model_path="/no/such/model"))


CONFIG = """{
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 101, "hidden_size": 40,
  "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 8,
  "num_key_value_heads": 2, "head_dim": 8, "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true,
  "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu", "max_position_embeddings": 64,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32"}"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    return _weft.RuntimeConfig(
        model_path=str(tmp_path),
        load_format="dummy",
        max_tokens_per_step=16,
        max_running_requests=4,
        max_total_tokens=128,
        max_top_logprobs=2,
        num_threads=1,
        timeout_s=20,
    )


def test_a_generation_crosses_as_arrays_and_tuples(config):
    runtime = _weft.Runtime(config)
    admission = _weft.Admission(
        rid=3,
        dp_rank=0,
        input_ids=[5, 6, 7],
        max_new_tokens=2,
        temperature=0.0,
        logprob_start=1,
        return_logprob=True,
        top_logprobs_num=2,
    )
    first = runtime.submit(_weft.StepBatch(admissions=[admission], prefill=[(3, 3)]))
    second = runtime.submit(_weft.StepBatch(decode=[True]))
    result = runtime.wait(first)
    assert result.rids.dtype == np.int64
    assert result.tokens.dtype == np.int32
    assert result.finished.dtype == np.uint8
    assert (result.rids.tolist(), result.finished.tolist()) == ([3], [0])
    [(rid, start, values, tops)] = result.input_logprobs
    assert (rid, start, len(values), [len(top) for top in tops]) == (3, 1, 2, [2, 2])
    [(rid, value, top)] = result.output_logprobs
    assert rid == 3
    assert top[0] == (result.tokens[0], value)
    assert runtime.wait(second).finished.tolist() == [2]
    assert runtime.submit(_weft.StepBatch(decode=[True])) == 0
    stats = runtime.stats()
    assert stats["requests"] == {"admitted": 1, "finished": 1, "released": 0, "discarded_rows": 0}
    assert stats["pages"] == {"total": 128, "used": 0}
    [rank] = stats["ranks"]
    assert (rank["steps"]["EXTEND"], rank["steps"]["DECODE"], rank["real_tokens"]) == (1, 1, 4)
    runtime.close()
    runtime.close()
    with pytest.raises(_weft.WeftError, match="closed"):
        runtime.submit(_weft.StepBatch())


def test_the_ledger_is_there_before_the_runtime(config):
    ledger = _weft.memory_ledger(config)
    runtime = _weft.Runtime(config)
    assert ledger == runtime.memory_ledger()
    assert all(rank == 0 and name and size >= 0 for rank, name, size in ledger)
    assert (runtime.num_pages, runtime.vocab_size) == (128, 101)


def test_a_refused_batch_names_the_request_and_hurts_no_other(config):
    runtime = _weft.Runtime(config)
    bad = _weft.Admission(rid=9, dp_rank=0, input_ids=[1] * 60, max_new_tokens=60)
    with pytest.raises(_weft.WeftError, match=r"request 9: .* exceed the context length 64"):
        runtime.submit(_weft.StepBatch(admissions=[bad]))
    good = _weft.Admission(rid=9, dp_rank=0, input_ids=[1], max_new_tokens=1)
    ticket = runtime.submit(_weft.StepBatch(admissions=[good], prefill=[(9, 1)]))
    assert runtime.wait(ticket).rids.tolist() == [9]

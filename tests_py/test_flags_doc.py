"""docs/flags.md is what the tables say, and what its matrix says works does run."""

import importlib.util
import itertools
import sys
from pathlib import Path

from weft import Engine

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("flags_doc", ROOT / "tools" / "flags_doc.py")
flags_doc = sys.modules["flags_doc"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flags_doc)


def test_the_page_is_current():
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    assert page == flags_doc.document(), "run: python tools/flags_doc.py > docs/flags.md"


def test_a_pair_of_features_is_what_its_mirror_is():
    for one, other in itertools.combinations(flags_doc.FEATURES, 2):
        there, back = flags_doc.arguments_of(one, other), flags_doc.arguments_of(other, one)
        assert (there is None) == (back is None)
        if there is not None:
            assert flags_doc.state_of(there) == flags_doc.state_of(back)


def working_pairs():
    pairs = []
    for one, other in itertools.combinations_with_replacement(flags_doc.FEATURES, 2):
        arguments = flags_doc.arguments_of(one, other)
        if arguments is not None and flags_doc.state_of(arguments)[0] == "works":
            pairs.append((one, other, arguments))
    return pairs


def test_every_pair_that_works_runs():
    """Two prompts together: a step of prefill, and some of decode, whose tokens are there."""
    failed = {}
    for one, other, arguments in working_pairs():
        small = {"max_running_requests": 8, "max_total_tokens": 512, "context_length": 128}
        try:
            with Engine(**small, **arguments) as engine:
                outputs = engine.generate(
                    input_ids=[[1, 2, 3, 4, 5], [6, 7, 8]], sampling_params={"max_new_tokens": 3, "ignore_eos": True}
                )
            assert [len(output["output_ids"]) for output in outputs] == [3, 3]
        except Exception as error:
            failed[f"{one.name} with {other.name}"] = str(error)
    assert not failed

"""A seeded sample of the bad inputs of ``benchmarks/bad_input.py``: each is refused by one sentence, or taken for a stated reason."""

from __future__ import annotations

import random

import torch
from bad_inputs import judge, lines
from bad_inputs.target import Target
from bad_inputs.targets import targets
from bad_inputs.values import VALUES

import physzoo

NUMBER = 150
SLOW = ("laplace_mixture", "point_estimate", "weights.load")  # where a legitimate value takes a second
WRONG = ("raw", "silent", "hang")


def test_bad_inputs_are_refused_by_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    every = [(target, *pair) for target in targets(fem=False) for pair in target.inputs(VALUES)]
    every = [one for one in every if one[0].name not in SLOW]
    wrong = []
    for target, argument, value in random.Random(0).sample(every, NUMBER):
        outcome = judge.judged(target, argument, value, VALUES[value])
        if outcome.verdict in WRONG:
            wrong.append((target.name, argument, value, *outcome))
    assert not wrong, wrong


def test_the_judge_tells_what_is_no_sentence(tmp_path, monkeypatch):
    """Silent acceptance, a deep error and a change of global state are found out."""
    monkeypatch.chdir(tmp_path)
    for function, verdict in (
        (lambda particles: None, "silent"),
        (lambda particles: particles.shape, "raw"),
        (lambda particles: torch.set_grad_enabled(False), "raw"),
        (lambda particles: physzoo.ELBO(particles), "sentence"),
    ):
        spoilt = Target("ELBO", function, lambda: {"particles": 1})
        with torch.enable_grad():
            assert judge.judged(spoilt, "particles", "word", VALUES["word"]).verdict == verdict


def test_command_lines_end_with_a_sentence(tmp_path):
    desk = lines.desk(tmp_path)
    some = random.Random(0).sample(list(lines.lines()), 40)
    wrong = [(words, *found) for _, words in some if (found := lines.judged(words, desk)).verdict in WRONG]
    assert not wrong, wrong

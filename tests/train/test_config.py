"""The options of a run: what is refused, with which words."""

from __future__ import annotations

import pytest

from gridnn.errors import UserError, unknown, within_memory
from gridnn.train.config import RUN_OPTIONS, RunConfig


def refused(text: str, **options):
    with pytest.raises(UserError, match=text):
        RunConfig.of(**options).validate()


def test_the_defaults_are_valid():
    RunConfig.of().validate()


@pytest.mark.parametrize("name", [name for name, option in RUN_OPTIONS.items() if option.choices])
def test_a_misspelt_name_is_answered_with_the_nearest(name):
    known = RUN_OPTIONS[name].choices[0]
    refused(f"unknown {name.replace('_', '-')} '{known}x': did you mean {known}", **{name: known + "x"})


def test_a_name_like_no_other_lists_them_all():
    assert str(unknown("model", "zzz", ["mlp", "lenet"])) == "unknown model 'zzz': the models are mlp, lenet"
    assert "strategies are" in str(unknown("strategy", "zzz", ["batch"]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "--batch 0: must be a whole number of at least 1"),
        ({"epochs": -1}, "--epochs -1"),
        ({"lr": float("nan")}, "--lr nan: must be a finite number"),
        ({"lr": float("inf")}, "--lr inf"),
        ({"lr": -0.1}, "--lr -0.1"),
        ({"momentum": 1.0}, "--momentum 1.0: must be a factor, 0 <= m < 1"),
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"clip": 0.0}, "--clip 0.0: must be a finite number above 0"),
        ({"threads": 0}, "--threads 0"),
        ({"seed": -1}, "--seed -1"),
        ({"accumulate": 65}, "--accumulate 65 is more parts than a batch of 64 has samples"),
        ({"nesterov": True, "momentum": 0.0}, "--nesterov needs momentum"),
        ({"model": "mlp", "widths": "12,,3"}, "--widths '12,,3': write whole numbers above 0 as 512,512"),
        ({"dataset": "synthetic", "shape": "2x2x2x2x2"}, "--shape 2x2x2x2x2: write features as 784, or space"),
        ({"dataset": "a.h5", "names": "a"}, "--names a: write the names of the samples' and the targets' arrays"),
        ({"dataset": "a.h5", "names": "a,a"}, "--names a,a: write"),
        ({"resize": 0}, "--resize 0: must be a whole number of at least 1"),
        ({"dataset": "synthetic", "shape": "32x-1x3"}, "--shape '32x-1x3': write whole numbers above 0"),
        ({"strategy": "domain", "domain": "2x2x2x2"}, "--domain 2x2x2x2: write parts of"),
    ],
)
def test_values_that_cannot_be_meant(options, text):
    refused(text, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"widths": "64"}, "--widths 64 has no effect with --model lenet: leave it out, or use --model mlp"),
        ({"domain": "2x2"}, "--domain 2x2 has no effect with --strategy optimal: .* use --strategy domain or "),
        ({"optimizer": "adamw", "nesterov": True}, "--nesterov has no effect with --optimizer adamw"),
        ({"samples": 7}, "--samples 7 has no effect with --dataset digits"),
        ({"crop": 9}, "--crop 9 has no effect with --dataset digits: leave it out, or use --dataset PATH"),
        ({"names": "a,b"}, "--names a,b has no effect with --dataset digits"),
        ({"targets": 3}, "--targets 3 has no effect with --dataset digits: leave it out, or use --dataset volumes"),
        ({"dataset": "volumes", "resize": 9}, "--resize 9 has no effect with --dataset volumes"),
        ({"dataset": "volumes", "flip": True}, "--flip has no effect with --dataset volumes"),
        ({"gamma": 0.5}, "--gamma 0.5 has no effect with --schedule constant"),
        ({"plan": "p.json", "strategy": "batch"}, "--plan p.json and --strategy batch both say how to divide"),
    ],
)
def test_options_without_effect_are_refused(options, text):
    refused(text, **options)


def test_texts_are_parsed():
    config = RunConfig.of(widths="512, 256", shape="28x28x1", domain="2x3")
    assert config.model.hidden == (512, 256)
    assert config.data.sample_shape == (28, 28, 1)
    assert config.plan.domain_parts == (2, 3)
    assert RunConfig.of(domain="4").plan.domain_parts == (4,)
    assert RunConfig.of().plan.domain_parts is None
    assert RunConfig.of(names="a, g/b").data.array_names == ("a", "g/b")


def test_the_shape_is_that_of_the_data_set():
    assert RunConfig.of(dataset="volumes").data.sample_shape == (64, 64, 64, 1)
    assert RunConfig.of(dataset="synthetic").data.sample_shape == (32, 32, 3)
    assert RunConfig.of().data.shape is None


def test_options_of_paths_apply_to_what_has_no_name():
    RunConfig.of(dataset="some/pictures", resize=256, crop=224, flip=True).validate()
    RunConfig.of(dataset="some/volumes.h5", names="a,b").validate()


def test_the_resolved_options_leave_out_what_has_no_effect():
    shown = RunConfig.of(optimizer="adamw").as_dict()
    assert shown["lr"] == 0.001
    assert not {"momentum", "widths", "samples", "gamma", "domain", "plan"} & set(shown)
    assert RunConfig.of().as_dict()["lr"] == 0.01


def test_only_a_lack_of_memory_becomes_the_users_mistake():
    with pytest.raises(UserError, match=r"does not fit into its memory \(7 bytes\): divide it"), within_memory():
        raise MemoryError("7 bytes")
    with pytest.raises(ValueError, match="operands could not be broadcast"), within_memory():
        raise ValueError("operands could not be broadcast")
    assert not issubclass(UserError, ValueError)

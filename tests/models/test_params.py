"""Constructors, setters and getters of every estimator: what an editor shows is what holds."""

from __future__ import annotations

import inspect
import re

import pytest

from recsys_spark.models import (
    ALS,
    BlendRecommender,
    ItemItemRecommender,
    MLlibALS,
    PairwiseRecommender,
    PopularityRecommender,
    RankerRecommender,
    SegmentPopularityRecommender,
    SoftmaxRecommender,
    SpectralRecommender,
)
from recsys_spark.sampling import NegativeSampler

CLASSES = [
    ALS,
    SoftmaxRecommender,
    PairwiseRecommender,
    ItemItemRecommender,
    SpectralRecommender,
    BlendRecommender,
    RankerRecommender,
    SegmentPopularityRecommender,
    PopularityRecommender,
    MLlibALS,
    NegativeSampler,
]
FRAMES = {"initialModel", "userFeatures", "itemFeatures", "history", "catalogue", "model", "events"}
"""Arguments that are no Params."""


def signature(kind):
    return {name: p for name, p in inspect.signature(kind).parameters.items() if name not in FRAMES}


def method(name, param):
    return f"{name}{param[0].upper()}{param[1:]}"


@pytest.mark.parametrize("kind", CLASSES)
def test_signature_has_every_param_with_its_default(kind):
    instance, arguments = kind(), signature(kind)
    assert set(arguments) == {param.name for param in instance.params}
    for name, argument in arguments.items():
        assert argument.kind is inspect.Parameter.KEYWORD_ONLY
        param = instance.getParam(name)
        default = instance.getOrDefault(param) if instance.hasDefault(param) else None
        shown = list(argument.default) if isinstance(argument.default, tuple) else argument.default
        assert (name, shown) == (name, default)


@pytest.mark.parametrize("kind", CLASSES)
def test_documentation_has_every_argument_with_its_default(kind):
    section = re.split(r"\n\s*Parameters\n\s*-+\n", inspect.getdoc(kind))[1]
    for name, argument in inspect.signature(kind).parameters.items():
        line = re.search(rf"^(\w+, )*{name}(, \w+)* : (.*)$", section, re.MULTILINE)
        assert line, name
        text = line[3]
        if argument.default is None:
            assert text.endswith("optional"), name
        else:
            shown = f'"{argument.default}"' if isinstance(argument.default, str) else str(argument.default)
            assert shown in text.replace("1e-6", "1e-06"), name


@pytest.mark.parametrize("kind", CLASSES)
def test_every_param_has_a_setter_and_a_getter(kind):
    values = {int: 7, float: 0.5, bool: True, str: "x"}
    of_names = {"hiddenDims": [3], "members": {"als": {"rank": 3}}, "memberWeights": {"als": 0.5}}
    of_names |= {"candidates": {"als": 3}, "scoreBlocks": ["als"]}
    for param in kind().params:
        instance = kind()
        value = of_names.get(param.name, ["x"] if param.name.endswith("Cols") else None)
        if value is None:
            annotation = (
                inspect.signature(getattr(kind, method("set", param.name))).parameters["value"].annotation
            )
            value = values[{"int": int, "float": float, "bool": bool, "str": str}[annotation]]
        assert getattr(instance, method("set", param.name))(value) is instance
        assert instance.getOrDefault(param.name) == value
        assert getattr(instance, method("get", param.name))() == value


@pytest.mark.parametrize(
    ("kind", "given", "near"),
    [
        (ALS, "regParm", "regParam"),
        (SoftmaxRecommender, "embedingDim", "embeddingDim"),
        (PairwiseRecommender, "numNegative", "numNegatives"),
        (PopularityRecommender, "halflife", "halfLife"),
        (ItemItemRecommender, "neighbours", "neighbors"),
        (SpectralRecommender, "neighbours", "neighbors"),
        (BlendRecommender, "member", "members"),
        (RankerRecommender, "member", "members"),
        (MLlibALS, "maxIters", "maxIter"),
        (NegativeSampler, "strateggy", "strategy"),
    ],
)
def test_misspelt_param_is_a_type_error_that_names_the_nearest(kind, given, near):
    with pytest.raises(TypeError, match=f"{kind.__name__} has no argument '{given}': did you mean '{near}'"):
        kind(**{given: 1})
    with pytest.raises(TypeError, match=f"{kind.__name__} has no Param '{given}': did you mean '{near}'"):
        kind().setParams(**{given: 1})


@pytest.mark.parametrize("kind", CLASSES)
def test_positional_arguments_are_a_type_error(kind):
    with pytest.raises(TypeError, match=f"{kind.__name__} takes keyword arguments only, got 2 positional"):
        kind(10, "user")
    with pytest.raises(TypeError, match="positional argument"):
        kind().setParams("user")


def test_value_of_another_type_is_a_type_error():
    with pytest.raises(TypeError, match="rank"):
        ALS(rank="ten")
    with pytest.raises(TypeError, match="rank"):
        ALS().setParams(rank="ten")


def test_setParams_sets_what_it_is_given_and_nothing_else():
    estimator = ALS(maxIter=7)
    assert estimator.setParams(rank=3) is estimator
    assert (estimator.getRank(), estimator.getMaxIter()) == (3, 7)

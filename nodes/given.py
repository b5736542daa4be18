"""What nodes are given, checked in one place before any of them sees it.

ComfyUI compares the declared types of links alone: an output of any type fits every input, and a
prompt that is sent over HTTP may have anything where a link belongs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from ..trainer.errors import ForThePerson, nearest

WORDS = {
    "COMBO": "one of its choices",
    "STRING": "a text",
    "BOOLEAN": "true or false",
    "INT": "a whole number",
    "FLOAT": "a number",
    "COCKTAIL_DATASET": "a dataset",
    "COCKTAIL_SELECTION": "rows of a table",
    "COCKTAIL_SETTINGS": "the settings of a fine-tune",
    "COCKTAIL_RUN": "a run",
    "COCKTAIL_SWEEP": "a sweep",
    "COCKTAIL_RECIPE": "a recipe",
    "COCKTAIL_AXIS": "an axis",
    "COCKTAIL_GRID": "a grid",
}
"""What inputs take, by their types; the narrower first."""


class WrongInput(ForThePerson):
    """An input of a node got what it does not take."""


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself, which from now on refuses what its inputs do not take: before it is queued
    what stands in the graph, before it executes what links bring. None for an optional input is
    the same as leaving it out.
    """
    execute, validate = (_own(node, name) for name in ("execute", "validate_inputs"))
    assert execute is not None
    parameters = inspect.signature(validate).parameters if validate else {}
    looks_at_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())

    @functools.wraps(execute)
    def executed(cls: type[io.ComfyNode], *others: Any, **values: Any) -> Any:
        """ComfyUI gives all values by name."""
        if not others:
            values = _taken(cls, values)
            for name in () if looks_at_all else values.keys() - parameters.keys():
                _check_choice(cls, name, values[name])
        return execute(cls, *others, **values)

    node.execute = classmethod(executed)  # pyright: ignore
    if validate is not None:
        node.validate_inputs = classmethod(_validated(validate))  # pyright: ignore
    return node


def _validated(validate: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(validate)
    missing = {
        name: None
        for name, each in signature.parameters.items()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and name != "cls"
    }

    @functools.wraps(validate)
    def validated(cls: type[io.ComfyNode], *others: Any, **values: Any) -> Any:
        """None is what a link will bring, and what is missing: ComfyUI says that itself."""
        inputs = _inputs(cls)
        for name, value in values.items():
            if name in inputs and value is not None and not _fits(inputs[name], value):
                return _message(inputs[name], value)
        return validate(cls, *others, **(values if others else missing | values))

    # ComfyUI gives it the inputs that it names.
    validated.__signature__ = signature  # pyright: ignore
    return validated


def _own(node: type[io.ComfyNode], name: str) -> Callable[..., Any] | None:
    """The function of a class method of the node or of its bases in the pack."""
    for base in node.__mro__[: node.__mro__.index(io.ComfyNode)]:
        if name in vars(base):
            return vars(base)[name].__func__
    return None


def _inputs(node: type[io.ComfyNode]) -> dict[str, io.Input]:
    return {each.id: each for each in (node.SCHEMA or node.GET_SCHEMA()).inputs}


def _taken(node: type[io.ComfyNode], values: dict[str, Any]) -> dict[str, Any]:
    """The values, without None for what is optional. Raises WrongInput."""
    inputs, taken = _inputs(node), {}
    for name, value in values.items():
        if name not in inputs:
            raise WrongInput(f"There is no input {name!r}.{nearest(name, inputs)}")
        given = value if node.INPUT_IS_LIST else [value]
        if inputs[name].optional and all(each is None for each in given):
            continue
        for each in given or [None]:
            if not _fits(inputs[name], each):
                raise WrongInput(_message(inputs[name], each))
        taken[name] = value
    return taken


def _check_choice(node: type[io.ComfyNode], name: str, value: Any) -> None:
    """Raise WrongInput for what a link brings that cannot be chosen. In what is chosen in the node
    ComfyUI looks for that itself, but as here not where the node's validate_inputs does.
    """
    given = value if node.INPUT_IS_LIST else [value]
    wanted = _inputs(node)[name]
    if str(wanted.io_type) != "COMBO" or not set(given).difference(_choices(wanted)):
        return
    fresh = next(each for each in node.define_schema().inputs if each.id == name)
    choices = [str(each) for each in _choices(fresh)]
    for each in given:
        if each not in choices:
            known = f" It takes: {', '.join(choices)}." if len(choices) <= 20 else ""
            raise WrongInput(f"{name} cannot be {each!r}.{nearest(each, choices)}{known}")


def _choices(wanted: io.Input) -> Any:
    return getattr(wanted, "options", None) or ()


def _fits(wanted: io.Input, value: Any) -> bool:
    return isinstance(value, _classes()[str(wanted.io_type)])


def _message(wanted: io.Input, value: Any) -> str:
    kind = str(wanted.io_type)
    advice = "Enter one, or link a node that gives one."
    if kind.startswith("COCKTAIL_"):
        advice = f"Link an output of the type {kind} to it."
    return f"{wanted.id} takes {WORDS[kind]}, but gets {_called(value)}. {advice}"


def _called(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, Integral | Real) and not isinstance(value, bool):
        return "a number"
    for kind, classes in _classes().items():
        if kind != "COMBO" and isinstance(value, classes):
            return WORDS[kind]
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else f"something else ({type(value).__name__})"


@functools.cache
def _classes() -> dict[str, Any]:
    """What inputs of these types take. It is loaded when the first node is used."""
    from ..merge.recipe import Recipe
    from ..trainer.data.manifest import Dataset
    from ..trainer.data.table.selection import Selection
    from ..trainer.runs import Run
    from ..trainer.settings.run_settings import RunSettings
    from ..trainer.sweep.sweep import Sweep
    from .grid.engine.axes.axis import Axis
    from .grid.engine.plan.plan import Plan

    return {
        "COMBO": str,
        "STRING": str,
        "BOOLEAN": Integral,
        "INT": Integral,
        "FLOAT": Real,
        "COCKTAIL_DATASET": Dataset,
        "COCKTAIL_SELECTION": Selection,
        "COCKTAIL_SETTINGS": RunSettings,
        "COCKTAIL_RUN": Run,
        "COCKTAIL_SWEEP": Sweep,
        "COCKTAIL_RECIPE": Recipe,
        "COCKTAIL_AXIS": Axis,
        "COCKTAIL_GRID": Plan,
    }

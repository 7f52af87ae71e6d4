"""What the user asked for: the options of a run, checked before anything is allocated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gridnn.data.names import DATASETS
from gridnn.errors import UserError
from gridnn.models.own import is_own
from gridnn.train.option import Option, flag
from gridnn.train.sections import (
    CHOOSING,
    OWN,
    PATH,
    DataOptions,
    DeviceOptions,
    ModelOptions,
    PlanOptions,
    TrainOptions,
)

SECTIONS = {
    "model": ModelOptions,
    "data": DataOptions,
    "plan": PlanOptions,
    "train": TrainOptions,
    "device": DeviceOptions,
}
SECTION_OF = {name: section for section, kind in SECTIONS.items() for name in kind.options()}
OPTIONS: dict[str, Option] = {name: one for kind in SECTIONS.values() for name, one in kind.options().items()}


@dataclass(frozen=True)
class RunConfig:
    """The options of a run in their sections, named as on the command line (with ``_`` for ``-``)."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    device: DeviceOptions = field(default_factory=DeviceOptions)

    @classmethod
    def of(cls, **values: Any) -> RunConfig:
        """The configuration with these options, whatever their sections: ``RunConfig.of(model="mlp", batch=8)``."""
        given = _by_section(values)
        return cls(**{section: kind(**given[section]) for section, kind in SECTIONS.items()})

    def replaced(self, **values: Any) -> RunConfig:
        """This configuration with other values of some options, whatever their sections."""
        given = _by_section(values).items()
        return replace(self, **{section: replace(getattr(self, section), **some) for section, some in given if some})

    def validate(self) -> None:
        """Refuse what cannot be meant.

        The names of models and data sets, the grid and the plan are checked where they are made.

        Raises
        ------
        UserError
            With the option, its value and the remedy.
        """
        for name, option in OPTIONS.items():
            option.check(name, self._given(name))
        for name, option in OPTIONS.items():
            if option.needs and self._given(name) != option.default and not self.applies(name):
                raise UserError(self._without_effect(name, *option.needs))
        for section in SECTIONS:
            getattr(self, section).check()

    def applies(self, name: str) -> bool:
        """Whether the option has an effect together with the others."""
        needs = OPTIONS[name].needs
        if name in CHOOSING:
            return self.plan.compares_by(name)
        if needs is None:
            return not (name == "strategy" and self.plan.plan is not None)
        if name in OWN and is_own(self.model.model):
            return name in self.model.asked
        other, values = needs
        value = self._resolved(other)
        if other == "dataset" and value is None:
            return name == "shape"
        if name == "copies" and self.plan.plan is not None:
            return True
        return value in values or (PATH in values and value not in DATASETS)

    def as_dict(self) -> dict[str, Any]:
        """The options that have an effect, by name."""
        values = {name: value for section in asdict(self).values() for name, value in section.items()}
        values["strategy"] = self.plan.divider
        return {name: value for name, value in values.items() if value is not None and self.applies(name)}

    def changed(self, defaults: RunConfig) -> dict[str, Any]:
        """The options that are not as in ``defaults``, by name."""
        given = {name: self._given(name) for name in OPTIONS}
        return {name: value for name, value in given.items() if value != defaults._given(name)}

    def _given(self, name: str) -> Any:
        return getattr(getattr(self, SECTION_OF[name]), name)

    def _resolved(self, name: str) -> Any:
        return self.plan.divider if name == "strategy" else self._given(name)

    def _without_effect(self, name: str, other: str, values: tuple[str, ...]) -> str:
        value = self._given(name)
        said = flag(name) if value is True else f"{flag(name)} {value}"
        owners = " or ".join(f"{flag(other)} {value}" for value in values)
        given = f"{flag(other)} {self._resolved(other)}" if self.applies(other) else f"--plan {self.plan.plan}"
        return f"{said} has no effect with {given}: leave it out, or use {owners}"


def _by_section(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by section and name.

    Raises
    ------
    TypeError
        If there is no option of a name.
    """
    given: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        if name not in SECTION_OF:
            raise TypeError(f"there is no option {name!r}")
        given[SECTION_OF[name]][name] = value
    return given

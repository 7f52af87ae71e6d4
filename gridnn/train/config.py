"""What the user asked for: the options of a run, checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from gridnn.data.names import DATASETS
from gridnn.errors import UserError
from gridnn.models.own import is_own
from gridnn.train import sections
from gridnn.train.option import Option, flag


@dataclass(frozen=True)
class RunConfig:
    """The options of a run in their sections, named as on the command line (with ``_`` for ``-``)."""

    model: sections.ModelOptions = field(default_factory=sections.ModelOptions)
    data: sections.DataOptions = field(default_factory=sections.DataOptions)
    plan: sections.PlanOptions = field(default_factory=sections.PlanOptions)
    train: sections.TrainOptions = field(default_factory=sections.TrainOptions)
    device: sections.DeviceOptions = field(default_factory=sections.DeviceOptions)

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
        given = self.flat
        for name, option in RUN_OPTIONS.items():
            option.check(name, given[name])
        for name, option in RUN_OPTIONS.items():
            if option.needs and given[name] != option.default and not self.applies(name):
                raise UserError(self._without_effect(name, *option.needs))
        for section in SECTIONS:
            getattr(self, section).check()

    def applies(self, name: str) -> bool:
        """Whether the option has an effect together with the others."""
        needs = RUN_OPTIONS[name].needs
        if name in sections.CHOOSING:
            return self.plan.compares_by(name)
        if needs is None:
            return not (name == "strategy" and self.plan.plan is not None)
        if name in sections.OWN and is_own(self.model.model):
            return name in self.model.asked
        other, values = needs
        value = self._resolved(other)
        if other == "dataset" and value is None:
            return name == "shape"
        if name == "replicas" and self.plan.plan is not None:
            return True
        return value in values or (sections.PATH in values and value not in DATASETS)

    @cached_property
    def flat(self) -> dict[str, Any]:
        """All options by name, as given or by default."""
        return {name: value for section in SECTIONS for name, value in vars(getattr(self, section)).items()}

    def as_dict(self) -> dict[str, Any]:
        """The options that have an effect, by name."""
        values = {**self.flat, "strategy": self.plan.divider}
        return {name: value for name, value in values.items() if value is not None and self.applies(name)}

    def _resolved(self, name: str) -> Any:
        return self.plan.divider if name == "strategy" else self.flat[name]

    def _without_effect(self, name: str, other: str, values: tuple[str, ...]) -> str:
        value = self.flat[name]
        said = flag(name) if value is True else f"{flag(name)} {value}"
        owners = " or ".join(f"{flag(other)} {value}" for value in values)
        given = f"{flag(other)} {self._resolved(other)}" if self.applies(other) else f"--plan {self.plan.plan}"
        return f"{said} has no effect with {given}: leave it out, or use {owners}"


SECTIONS: dict[str, Any] = {one.name: one.default_factory for one in fields(RunConfig)}
SECTION_OF = {one.name: section for section, kind in SECTIONS.items() for one in fields(kind)}
RUN_OPTIONS: dict[str, Option] = {
    one.name: one.metadata["option"] for kind in SECTIONS.values() for one in fields(kind)
}


def _by_section(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by section and name.

    Raises
    ------
    TypeError
        If there is no option of a name.
    """
    if unknown := values.keys() - SECTION_OF:
        raise TypeError(f"there is no option {min(unknown)!r}")
    return {
        section: {name: value for name, value in values.items() if SECTION_OF[name] == section} for section in SECTIONS
    }

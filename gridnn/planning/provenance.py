"""The provenance of a plan: the network layer by layer, the batch, the machine. So none is used where it is stale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gridnn.errors import UserError
from gridnn.network import INPUT, Network
from gridnn.records import fingerprint, shortened, texts, whole

SHOWN = 3  # differences that a refusal names
KEY, OLDER_KEY = "provenance", "made_for"  # in a plan's file
LONGEST = 10_000  # letters that describe a layer
MARK, OLDER_MARK = "fingerprint", "digest"  # of the network and of the machine


@dataclass(frozen=True)
class Provenance:
    """What a plan was made for."""

    # what every layer is, in words: its options, its inputs and their shapes
    layers: Mapping[str, str]
    batch: int  # B
    # machine, machine_fingerprint: the name of the machine whose constants were used, and their fingerprint
    machine: str | None = None
    machine_fingerprint: str | None = None
    # the options of the command line that make the network, so that ``gridnn price plan.json`` needs none of them
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, batch: int, **known: Any) -> Provenance:
        """The provenance of a plan for ``network``."""
        return cls(describe_layers(network), batch, **known)

    def check(self, network: Network) -> None:
        """Refuse another network than the plan was made for: a `UserError` naming the layers that differ."""
        differences = list(self._differences(describe_layers(network)))
        if differences:
            more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise UserError(
                f"it was made for another network: {'; '.join(differences[:SHOWN])}{more}: plan again, or give "
                "the options that it was made with"
            )

    def _differences(self, now: Mapping[str, str]) -> Iterator[str]:
        for name, text in self.layers.items():
            if name not in now:
                yield f"layer {name!r} is not in this network"
            elif now[name] != text:
                yield f"layer {name!r} was {text}, and is {now[name]}"
        for name in now:
            if name not in self.layers:
                yield f"layer {name!r} is not in the plan's network"

    def as_dict(self) -> dict[str, Any]:
        """The provenance as plain data."""
        return {
            "batch": self.batch,
            "machine": {"name": self.machine, MARK: self.machine_fingerprint},
            "network": {MARK: fingerprint(self.layers), "layers": dict(self.layers)},
            "options": dict(self.options),
        }

    @classmethod
    def from_file(cls, content: Mapping[str, Any]) -> Provenance | None:
        """The provenance in the content of a plan's file, also of one that calls it ``made_for``; None if it has none.

        `UserError` if it is not complete, or its fingerprint is not that of its layers: somebody edited it.
        """
        key = next((key for key in (KEY, OLDER_KEY) if key in content), None)
        if key is None:
            return None
        mark = MARK if key == KEY else OLDER_MARK
        try:
            made, given = cls._read(content[key], mark)
        except (KeyError, TypeError, UserError) as error:
            why = error if isinstance(error, UserError) else repr(error)
            raise UserError(f'"{key}" is not complete ({why}): leave it out, or plan again') from None
        if given != fingerprint(made.layers):
            raise UserError(
                f'"{key}" was edited: {mark} {given}, but its layers have {fingerprint(made.layers)}: plan again'
            )
        return made

    @classmethod
    def _read(cls, data: Mapping[str, Any], mark: str) -> tuple[Provenance, str]:
        """The provenance in plain data, and the fingerprint that it gives of its layers."""
        layers, machine, options = data["network"]["layers"], data["machine"], data["options"]
        batch, given = whole("batch", data["batch"], 1), data["network"][mark]
        if not isinstance(given, str):
            raise UserError(f'"{mark}" is {shortened(given)}, but must be a text')
        name, told = machine["name"], machine[mark]
        if not isinstance(name, str | None) or not isinstance(told, str | None):
            raise UserError(f'"machine" is {shortened(machine)}, but must have a text, or null, for name and {mark}')
        if not isinstance(options, dict):
            raise UserError(f'"options" is {shortened(options)}, but must be an object')
        return cls(texts("layers", layers, LONGEST), batch, name, told, options), given


def describe_layers(network: Network) -> dict[str, str]:
    """What every layer of a network is, in words."""
    return {
        node.name: f"{node.layer!r} of "
        + " and ".join(
            f"{source if source == INPUT else repr(source)} {network.shapes[source]}" for source in node.inputs
        )
        for node in network.nodes
    }

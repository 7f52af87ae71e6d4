"""What a plan was made for: the network layer by layer, the batch, the machine. So none is used where it is stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gridnn.network import INPUT, Network

SHOWN = 3  # differences that a refusal names


@dataclass(frozen=True)
class Origin:
    """What a plan was made for.

    Attributes
    ----------
    layers : mapping of str to str
        What every layer is, in words: its options, its inputs and their shapes.
    batch : int
        B.
    machine, digest : str or None
        The name of the machine whose constants were used, and their digest.
    options : mapping
        The options of the command line that make the network, so that ``gridnn price plan.json`` needs none of them.
    """

    layers: Mapping[str, str]
    batch: int
    machine: str | None = None
    digest: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, batch: int, **known: Any) -> Origin:
        """The origin of a plan for ``network``."""
        return cls(described(network), batch, **known)

    @property
    def network(self) -> str:
        """The digest of the network."""
        return digest(self.layers)

    def check(self, network: Network) -> None:
        """Refuse another network than the plan was made for.

        Raises
        ------
        ValueError
            Naming the layers that differ.
        """
        differences = list(self._differences(described(network)))
        if differences:
            more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise ValueError(
                f"it was made for another network: {'; '.join(differences[:SHOWN])}{more}: plan again, or give "
                "the options that it was made with"
            )

    def _differences(self, now: Mapping[str, str]):
        for name, text in self.layers.items():
            if name not in now:
                yield f"layer {name!r} is not in this network"
            elif now[name] != text:
                yield f"layer {name!r} was {text}, and is {now[name]}"
        for name in now:
            if name not in self.layers:
                yield f"layer {name!r} is not in the plan's network"

    def as_dict(self) -> dict:
        """The origin as plain data."""
        return {
            "batch": self.batch,
            "machine": {"name": self.machine, "digest": self.digest},
            "network": {"digest": self.network, "layers": dict(self.layers)},
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Origin:
        """The origin in plain data.

        Raises
        ------
        ValueError
            If it is not complete, or its digest is not that of its layers: somebody edited it.
        """
        try:
            layers, machine = data["network"]["layers"], data["machine"]
            made = cls(dict(layers), int(data["batch"]), machine["name"], machine["digest"], dict(data["options"]))
            given = data["network"]["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'"made_for" is not complete ({error!r}): leave it out, or plan again') from None
        if given != made.network:
            raise ValueError(f'"made_for" was edited: digest {given}, but its layers have {made.network}: plan again')
        return made


def described(network: Network) -> dict[str, str]:
    """What every layer of a network is, in words."""
    return {
        node.name: f"{node.layer!r} of "
        + " and ".join(
            f"{source if source == INPUT else repr(source)} {network.shapes[source]}" for source in node.inputs
        )
        for node in network.nodes
    }


def digest(data: Any) -> str:
    """A short name for plain data: equal for equal data, whatever made it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

"""What the user asked for: every option of a run, with its default, checked before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from gridnn.data.names import DATASETS
from gridnn.errors import UserError, unknown
from gridnn.layout.gridshape import ORDERS
from gridnn.layout.halo import HALOS
from gridnn.models import WITH_DROPOUT
from gridnn.models.own import is_own
from gridnn.models.torchvision import TORCHVISION
from gridnn.planning.plan import BACKWARD
from gridnn.planning.rules import RULES, STRATEGIES
from gridnn.units import ITEMSIZES, parse_memory

CHOICES = {
    "strategy": STRATEGIES,
    "order": ORDERS,
    "axes": ("few", "all"),
    "gather_backward": BACKWARD,
    "halo": HALOS,
    "dtype": tuple(ITEMSIZES),
    "backend": ("numpy", "cupy"),
    "kernels": ("auto", "reference", "numba", "onednn"),
    "conv": ("auto", "gemm", "cudnn"),
    "transport": ("auto", "cuda-aware", "nccl", "host"),
    "loss": ("cross-entropy", "mse"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "step", "cosine"),
}
HALVES = tuple(name for name, size in ITEMSIZES.items() if size == 2)  # types of 16 bits
LEARNING_RATES = {"sgd": 0.01, "adamw": 0.001}

SHAPES = {"synthetic": "32x32x3", "volumes": "64x64x64x1"}
PATH = "PATH"  # stands for every data set that has no name of its own

CHOOSING = ("machine", "memory")  # what plans are compared by
UNLIMITED = ("layerwise",)  # searches that take no memory limit

OWN = ("widths", "dropout")  # what a user's own model may take: it is refused where it does not

# An option that does nothing without another one is refused, not ignored: option -> (the other, its values).
BELONGS_TO = {
    "widths": ("model", ("mlp",)),
    "dropout": ("model", WITH_DROPOUT),
    "weights": ("model", TORCHVISION),
    "data_dir": ("dataset", ("cifar10", "mnist")),
    "shape": ("dataset", ("synthetic", "volumes")),
    "samples": ("dataset", ("synthetic", "volumes")),
    "targets": ("dataset", ("volumes",)),
    "names": ("dataset", (PATH,)),
    "resize": ("dataset", ("digits", "cifar10", "mnist", PATH)),
    "crop": ("dataset", (PATH,)),
    "flip": ("dataset", (PATH,)),
    "domain": ("strategy", ("domain", "integrated")),
    "group": ("strategy", ("splitbrain",)),
    "axes": ("strategy", ("optimal",)),
    "copies": ("strategy", tuple(RULES)),
    "transport": ("backend", ("cupy",)),
    "momentum": ("optimizer", ("sgd",)),
    "nesterov": ("optimizer", ("sgd",)),
    "step_every": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "tf32": ("backend", ("cupy",)),
    "graphs": ("backend", ("cupy",)),
    "conv": ("backend", ("cupy",)),
    "kernels": ("backend", ("numpy",)),
}


@dataclass(frozen=True)
class RunConfig:
    """The options of a run, named as on the command line (with ``_`` for ``-``).

    Attributes
    ----------
    widths, shape, domain, names : str, optional
        As typed: ``512,512``, ``32x32x3``, ``2x2``, ``x,y``; parsed by ``hidden``, ``sample_shape``, ``domain_parts``
        and ``array_names``. ``shape`` becomes the default of the data set.
    dataset : str or None
        None: nothing is read, samples have ``shape`` or the one that the network was published for; to plan only.
    targets : int
        Numbers to be found out from a sample of ``volumes``.
    strategy : str, optional
        None: see `divider`.
    machine, memory : str
        The machine that plans are compared on, a name or a file, and what a rank may use there, as typed: ``16GB``.
    resize, crop : int, optional
        Pixels of the shorter side of an image, and of the square that is cut out of it.
    flip : bool
        Whether images are mirrored at random.
    group : int, optional
        K of SplitBrain, the ranks that share its fully connected layers; None: the rows of the grid.
    axes : {"few", "all"}
        Whether the search divides at most two axes of a layer, or as many as it has.
    batch : int
        Samples of one update, over all ranks.
    accumulate : int
        Into how many forward and backward passes a batch is divided.
    lr : float, optional
        The learning rate; None becomes the default of the optimizer.
    warmup, step_every : int
        Epochs.
    steps : int, optional
        Stop after so many updates.
    dtype : str
        Of activations and their gradients, and of the weights that products take. Weights are kept, summed and updated
        in float32 where it has 16 bits.
    tf32 : bool
        Whether products of float32 on a GPU may round their factors to TF32.
    graphs : bool
        Whether what a GPU computes between two messages is launched as one CUDA graph.
    conv : {"auto", "gemm", "cudnn"}
        Whose convolutions on a GPU: products by cuBLAS, or cuDNN's; auto is cuDNN where it is installed.
    checkpoint : str, optional
        The directory of the checkpoints.
    keep : int, optional
        How many of them remain; None: 3.
    save_every : int, optional
        Updates between two checkpoints; None: one at the end of every epoch.
    """

    model: str = "lenet"
    widths: str = "128,128"
    dropout: float = 0.5
    weights: str | None = None
    dataset: str | None = "digits"
    data_dir: str = "data"
    names: str = "x,y"
    shape: str | None = None
    classes: int | None = None
    samples: int = 2048
    targets: int = 4
    resize: int | None = None
    crop: int | None = None
    flip: bool = False
    loss: str = "cross-entropy"
    grid: str = "auto"
    order: str = "column"
    strategy: str | None = None
    machine: str = "generic-cpu"
    memory: str | None = None
    domain: str | None = None
    group: int | None = None
    axes: str = "few"
    plan: str | None = None
    copies: bool = False
    gather_backward: str = "reduce-scatter"
    halo: str = "auto"
    recompute: bool = False
    batch: int = 64
    accumulate: int = 1
    epochs: int = 10
    steps: int | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    step_every: int = 10
    gamma: float = 0.1
    clip: float | None = None
    drop_last: bool = False
    dtype: str = "float32"
    tf32: bool = False
    graphs: bool = False
    seed: int = 0
    backend: str = "numpy"
    kernels: str = "auto"
    conv: str = "auto"
    transport: str = "auto"
    threads: int | None = None
    checkpoint: str | None = None
    resume: bool = False
    keep: int | None = None
    save_every: int | None = None

    def __post_init__(self):
        if self.lr is None:
            object.__setattr__(self, "lr", LEARNING_RATES.get(self.optimizer))
        if self.shape is None:
            object.__setattr__(self, "shape", SHAPES.get(self.dataset))

    @property
    def hidden(self) -> tuple[int, ...]:
        """The widths of the hidden layers of ``mlp``."""
        return _integers("widths", self.widths, ",", "512,512")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample that is made up: space and channels, or features alone."""
        return _integers("shape", self.shape or SHAPES["synthetic"], "x", "32x32x3")

    @property
    def array_names(self) -> tuple[str, str]:
        """What the arrays of samples and targets are called in a file."""
        names = tuple(name.strip() for name in self.names.split(","))
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            raise UserError(f"--names {self.names}: write the names of the samples' and the targets' arrays as x,y")
        return names

    @property
    def domain_parts(self) -> tuple[int, ...] | None:
        """Into how many parts the dimensions of space are divided; None if the strategy decides."""
        if self.domain is None:
            return None
        parts = _integers("domain", self.domain, "x", "2x2")
        if len(parts) > 3:
            raise UserError(
                f"--domain {self.domain}: write parts of the dimensions of space, as 2x2 of images, 2x2x1 of volumes, "
                "or of the first one as 4"
            )
        return parts

    def validate(self) -> None:
        """Refuse what cannot be meant.

        The names of models and data sets, the grid and the plan are checked where they are made.

        Raises
        ------
        UserError
            With the option, its value and the remedy.
        """
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known and (name != "strategy" or value is not None):
                raise unknown(name.replace("_", "-"), value, known)
        self._check_numbers()
        self._check_texts()
        for name, (other, values) in BELONGS_TO.items():
            value = getattr(self, name)
            if value != _default(name) and not self.applies(name):
                said = flag(name) if value is True else f"{flag(name)} {value}"
                owners = " or ".join(f"{flag(other)} {value}" for value in values)
                given = f"{flag(other)} {self._value(other)}" if self.applies(other) else f"--plan {self.plan}"
                raise UserError(f"{said} has no effect with {given}: leave it out, or use {owners}")
        for name in ("resume", "keep", "save_every"):
            if self.checkpoint is None and getattr(self, name):
                raise UserError(f"{flag(name)} needs the directory of the checkpoints: --checkpoint DIR")
        if self.tf32 and self.dtype != "float32":
            raise UserError(f"--tf32 has no effect with --dtype {self.dtype}: leave it out, or use --dtype float32")
        if self.conv == "cudnn" and self.dtype == "float64":
            raise UserError("--conv cudnn: cuDNN convolves no float64: use --conv gemm, or another --dtype")
        self._check_chosen()
        if self.plan is not None and self.strategy is not None:
            raise UserError(f"--plan {self.plan} and --strategy {self.strategy} both say how to divide: leave one out")

    def applies(self, name: str) -> bool:
        """Whether the option has an effect together with the others."""
        if name in CHOOSING:
            return self.chooses and (name == "machine" or self.divider not in UNLIMITED)
        if name not in BELONGS_TO:
            return not (name == "strategy" and self.plan is not None)
        if name in OWN and is_own(self.model):
            return name in self.asked
        other, values = BELONGS_TO[name]
        value = self._value(other)
        if other == "dataset" and value is None:
            return name == "shape"
        if name == "copies" and self.plan is not None:
            return True
        return value in values or (other == "dataset" and PATH in values and value not in DATASETS)

    @property
    def divider(self) -> str:
        """The strategy: the one that is asked for, ``optimal`` where it may choose the grid, otherwise ``grid``."""
        return self.strategy or ("optimal" if self.grid == "auto" else "grid")

    @property
    def chooses(self) -> bool:
        """Whether plans are compared: by a search, or by a rule that may take its cheapest grid."""
        if self.plan is not None or self.divider in RULES:
            return self.plan is None and self.grid == "auto" and self.domain is None and self.group is None
        return self.divider != "tiling"

    @property
    def memory_bytes(self) -> float | None:
        """What a rank may use, in bytes; None: as much as there is."""
        return None if self.memory is None else parse_memory(self.memory)

    @property
    def asked(self) -> tuple[str, ...]:
        """The options of a user's own model that differ from their defaults."""
        return tuple(name for name in OWN if getattr(self, name) != _default(name))

    def as_dict(self) -> dict[str, Any]:
        """The options that have an effect, by name."""
        values = {**asdict(self), "strategy": self.divider}
        return {name: value for name, value in values.items() if value is not None and self.applies(name)}

    def _value(self, name: str) -> Any:
        return self.divider if name == "strategy" else getattr(self, name)

    def _check_chosen(self) -> None:
        """Refuse what plans are compared by where none are."""
        for name in CHOOSING:
            value = getattr(self, name)
            if value != _default(name) and not self.applies(name):
                how = (
                    f"--plan {self.plan}" if self.plan is not None else f"--grid {self.grid} --strategy {self.divider}"
                )
                raise UserError(
                    f"{flag(name)} {value} has no effect with {how}, where nothing is compared: leave it out, or use "
                    "--strategy optimal"
                )

    def _check_numbers(self) -> None:
        counts = ("classes", "samples", "targets", "resize", "crop", "group", "batch", "accumulate", "epochs", "steps")
        for name in (*counts, "step_every", "threads", "keep", "save_every"):
            self._within(name, 1, math.inf, "a whole number of at least 1")
        self._within("warmup", 0, math.inf, "a number of epochs, 0 or more")
        self._within("seed", 0, 2**63 - 1, "a whole number from 0 to 2^63 - 1")
        self._within("dropout", 0, math.nextafter(1, 0), "a probability, 0 <= p < 1")
        self._within("momentum", 0, math.nextafter(1, 0), "a factor, 0 <= m < 1")
        for name in ("lr", "weight_decay"):
            self._within(name, 0, math.inf, "a finite number, 0 or more")
        for name in ("gamma", "clip"):
            self._within(name, math.ulp(0), math.inf, "a finite number above 0")
        if self.accumulate > self.batch:
            raise UserError(f"--accumulate {self.accumulate} is more parts than a batch of {self.batch} has samples")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov needs momentum, but --momentum is 0")

    def _check_texts(self) -> None:
        # each refuses what it can't read
        texts = (self.memory_bytes, self.hidden, self.domain_parts, self.array_names, self.sample_shape)
        if len(texts[-1]) > 4:
            raise UserError(
                f"--shape {self.shape}: write features as 784, or space and channels: 128x1, 32x32x3, 64x64x64x1"
            )

    def _within(self, name: str, low: float, high: float, meaning: str) -> None:
        value = getattr(self, name)
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            raise UserError(f"{flag(name)} {value}: must be {meaning}")


def flag(name: str) -> str:
    """The option's name on the command line."""
    return "--" + name.replace("_", "-")


def _default(name: str) -> Any:
    return next(field.default for field in fields(RunConfig) if field.name == name)


def _integers(name: str, text: str, separator: str, example: str) -> tuple[int, ...]:
    terms = text.split(separator)
    if not all(term.strip().isdecimal() and int(term) > 0 for term in terms):
        raise UserError(f"{flag(name)} {text!r}: write whole numbers above 0 as {example}")
    return tuple(int(term) for term in terms)

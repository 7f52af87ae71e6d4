"""The options of a run in five sections, each declared once; a reader of one section knows nothing of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gridnn.errors import UserError, unknown
from gridnn.layers.losses import LOSSES
from gridnn.layout.gridshape import ORDERS
from gridnn.layout.halo import HALOS
from gridnn.models import WITH_DROPOUT
from gridnn.models.own import is_own
from gridnn.models.torchvision import TORCHVISION
from gridnn.planning.plan import BACKWARD
from gridnn.planning.rules import RULES, STRATEGIES
from gridnn.train.option import ADJUSTABLE, FIXED, FREE, Option, Range, flag, integers
from gridnn.units import ITEMSIZES, parse_memory

HALVES = tuple(name for name, size in ITEMSIZES.items() if size == 2)  # types of 16 bits
LEARNING_RATES = {"sgd": 0.01, "adamw": 0.001}
SHAPES = {"synthetic": "32x32x3", "volumes": "64x64x64x1"}
PATH = "PATH"  # stands for every data set that has no name of its own
OWN = ("widths", "dropout")  # what a user's own model may take: it is refused where it does not
SURVIVE = ("shrink", "respawn")  # how a run goes on without ranks that died
CHOOSING = ("machine", "memory")  # what plans are compared by
UNLIMITED = ("layerwise",)  # searches that take no memory limit

COUNT = Range(1, math.inf, "a whole number of at least 1", "N")
EPOCHS = Range(0, math.inf, "a number of epochs, 0 or more", "N")
SEEDS = Range(0, 2**63 - 1, "a whole number from 0 to 2^63 - 1", "N")
PROBABILITY = Range(0, math.nextafter(1, 0), "a probability, 0 <= p < 1", "P")
MOMENTUM = Range(0, math.nextafter(1, 0), "a factor, 0 <= m < 1", "X")
NOT_NEGATIVE = Range(0, math.inf, "a finite number, 0 or more", "X")
POSITIVE = Range(math.ulp(0), math.inf, "a finite number above 0", "X")
SECONDS, SOME_SECONDS = replace(NOT_NEGATIVE, metavar="S"), replace(POSITIVE, metavar="S")
PARTS, PIXELS = replace(COUNT, metavar="K"), replace(COUNT, metavar="PIXELS")

# What options have in common.
NETWORK = Option(panel="Network and data")
MADE_UP = replace(NETWORK, needs=("dataset", ("synthetic", "volumes")))
OF_PATH = replace(NETWORK, needs=("dataset", (PATH,)))
GRID = Option(panel="Grid", resume=FREE)
SPACE = replace(GRID, needs=("strategy", ("domain", "integrated")))
SPLITBRAIN = replace(GRID, needs=("strategy", ("splitbrain",)))
OPTIMAL = replace(GRID, needs=("strategy", ("optimal",)))
BY_RULE = replace(GRID, needs=("strategy", tuple(RULES)))
TRAINING = Option(panel="Training", command="train")
TUNED = replace(TRAINING, resume=ADJUSTABLE)
STEPWISE = replace(TUNED, needs=("schedule", ("step",)))
SGD = replace(TRAINING, needs=("optimizer", ("sgd",)))
CHECKPOINTS = Option(panel="Checkpoints", command="train", resume=FREE)
SURVIVAL = replace(CHECKPOINTS, panel="Survival and change")
MACHINE = Option(panel="Machine", resume=FREE)
STALLS = replace(MACHINE, panel="Stalls", command="audit")
ON_GPU = replace(MACHINE, needs=("backend", ("cupy",)))
ON_CPU = replace(MACHINE, needs=("backend", ("numpy",)))
WEIGHTS = replace(NETWORK, needs=("model", TORCHVISION), command="audit", resume=FREE)


@dataclass(frozen=True)
class ModelOptions:
    """Which network."""

    model: str = NETWORK.field(
        "lenet", "one that gridnn models lists, or a function in a file: networks.py:tiny", "NAME|FILE:FUNCTION"
    )
    widths: str = NETWORK.field("128,128", "hidden widths of mlp", "N,N,...", needs=("model", ("mlp",)))
    dropout: float = NETWORK.field(
        0.5, "probability, for models that have it", PROBABILITY, needs=("model", WITH_DROPOUT)
    )
    weights: str | None = WEIGHTS.field(None, "start from torchvision's weights", "FILE.safetensors")

    @property
    def hidden(self) -> tuple[int, ...]:
        """The widths of the hidden layers of ``mlp``."""
        return integers("widths", self.widths, ",", "512,512")

    @property
    def asked(self) -> tuple[str, ...]:
        """The options of a user's own model that differ from their defaults."""
        return tuple(name for name in OWN if getattr(self, name) != getattr(ModelOptions, name))

    def check(self) -> None:
        _ = self.hidden


@dataclass(frozen=True)
class DataOptions:
    """Which samples. Without a ``dataset`` nothing is read, and they are as the network was published for."""

    dataset: str | None = NETWORK.field(
        "digits", "digits, cifar10, mnist, synthetic, volumes; .npz, .h5, a folder of .npy or of images", "NAME|PATH"
    )
    data_dir: str = NETWORK.field(
        "data", "where the files of cifar10 and mnist are", "PATH", needs=("dataset", ("cifar10", "mnist")), resume=FREE
    )
    names: str = OF_PATH.field(
        "x,y", "what the arrays of samples and targets are called in a file (x is x_train and x_test, or x)", "X,Y"
    )
    shape: str | None = MADE_UP.field(
        None, "shape of a sample that is made up; default: 32x32x3 (synthetic), 64x64x64x1 (volumes)", "(DxH)xWxC"
    )
    classes: int | None = NETWORK.field(
        None, "number of classes, synthetic or of a path; default: 10, or those of the labels", COUNT
    )
    samples: int = MADE_UP.field(2048, "number of samples that are made up", COUNT)
    targets: int = NETWORK.field(
        4, "numbers to find out from a sample of volumes", PARTS, needs=("dataset", ("volumes",))
    )
    resize: int | None = NETWORK.field(
        None,
        "shorter side of images; default of a folder: 256",
        PIXELS,
        needs=("dataset", ("digits", "cifar10", "mnist", PATH)),
    )
    crop: int | None = OF_PATH.field(
        None, "side of the square cut out of the images of a folder, at random to train; default: 224", PIXELS
    )
    flip: bool = OF_PATH.field(False, "mirror the images of a folder at random")

    def __post_init__(self):
        if self.shape is None:
            object.__setattr__(self, "shape", SHAPES.get(self.dataset))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample that is made up: space and channels, or features alone."""
        return integers("shape", self.shape or SHAPES["synthetic"], "x", "32x32x3")

    @property
    def array_names(self) -> tuple[str, str]:
        """What the arrays of samples and targets are called in a file."""
        names = tuple(name.strip() for name in self.names.split(","))
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            raise UserError(f"--names {self.names}: write the names of the samples' and the targets' arrays as x,y")
        return names

    def check(self) -> None:
        _ = self.array_names
        if len(self.sample_shape) > 4:
            raise UserError(
                f"--shape {self.shape}: write features as 784, or space and channels: 128x1, 32x32x3, 64x64x64x1"
            )


@dataclass(frozen=True)
class PlanOptions:
    """How the layers are divided, and how the plan is run."""

    grid: str = GRID.field(
        "auto", "rows x columns of ranks: 4x2, 4x-1 (the other factor follows); auto: the cheapest", "PRxPC"
    )
    order: str = GRID.field("column", "which groups have neighbouring ranks", ORDERS)
    strategy: str | None = GRID.field(
        None, "how the layers are divided; default: optimal, and grid with a --grid", STRATEGIES
    )
    machine: str = GRID.field("generic-cpu", "the machine that plans are compared on", "NAME|FILE")
    memory: str | None = GRID.field(None, "bytes that a rank may use at the most", "16GB")
    domain: str | None = SPACE.field(
        None, "parts of the dimensions of space, the first one first: 2x2 (images: h x w), 2x2x1 (volumes)", "PxPxP"
    )
    group: int | None = SPLITBRAIN.field(
        None, "ranks that share the fully connected layers of splitbrain; default: the rows of the grid", PARTS
    )
    axes: str = OPTIMAL.field(
        "few", "how many axes of a layer optimal may divide: at most two, or all of them", ("few", "all")
    )
    plan: str | None = GRID.field(None, "a split per layer, instead of a strategy", "FILE")
    replicas: bool = BY_RULE.field(
        False, "divide layers that are too small for the grid into fewer parts, with replicas, instead of refusing"
    )
    gather_backward: str = GRID.field("reduce-scatter", "the backward of gathered activations", BACKWARD)
    halo: str = GRID.field(
        "auto", "halos over several dimensions: to all neighbours at once, or one dimension after the other", HALOS
    )
    recompute: bool = GRID.field(
        False, "keep few activations, and compute the others a second time for the backward pass"
    )

    @property
    def domain_parts(self) -> tuple[int, ...] | None:
        """Into how many parts the dimensions of space are divided; None if the strategy decides."""
        if self.domain is None:
            return None
        parts = integers("domain", self.domain, "x", "2x2")
        if len(parts) > 3:
            raise UserError(
                f"--domain {self.domain}: write parts of the dimensions of space, as 2x2 of images, 2x2x1 of volumes, "
                "or of the first one as 4"
            )
        return parts

    @property
    def memory_bytes(self) -> float | None:
        """What a rank may use, in bytes; None: as much as there is."""
        return None if self.memory is None else parse_memory(self.memory)

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

    def compares_by(self, name: str) -> bool:
        """Whether plans are compared by this one of `CHOOSING`."""
        return self.chooses and (name == "machine" or self.divider not in UNLIMITED)

    def check(self) -> None:
        _ = self.memory_bytes, self.domain_parts
        for name in CHOOSING:
            value = getattr(self, name)
            if value != getattr(PlanOptions, name) and not self.compares_by(name):
                how = f"--plan {self.plan}" if self.plan else f"--grid {self.grid} --strategy {self.divider}"
                raise UserError(
                    f"{flag(name)} {value} has no effect with {how}, where nothing is compared: leave it out, or use "
                    "--strategy optimal"
                )
        if self.plan is not None and self.strategy is not None:
            raise UserError(f"--plan {self.plan} and --strategy {self.strategy} both say how to divide: leave one out")


@dataclass(frozen=True)
class TrainOptions:
    """What a step is, how many there are, and what remains of them. ``lr`` becomes the default of the optimizer."""

    loss: str = NETWORK.field(
        "cross-entropy", "what is minimised: cross-entropy, mse, or a class in a file", "NAME|FILE:CLASS"
    )
    batch: int = NETWORK.field(64, "samples per update, over all ranks", replace(COUNT, metavar="B"))
    accumulate: int = NETWORK.field(1, "forward and backward passes per update", COUNT)
    epochs: int = TUNED.field(10, "passes over the training data", COUNT)
    steps: int | None = TUNED.field(None, "stop after so many updates", COUNT, command="audit")
    optimizer: str = TRAINING.field("sgd", "update rule", ("sgd", "adamw"))
    lr: float | None = TUNED.field(None, "learning rate; default: 0.01 (sgd), 0.001 (adamw)", NOT_NEGATIVE)
    momentum: float = SGD.field(0.9, "of sgd", MOMENTUM)
    nesterov: bool = SGD.field(False, "Nesterov's momentum for sgd")
    weight_decay: float = TUNED.field(0.0, "added to the gradient (sgd), or decoupled (adamw)", NOT_NEGATIVE)
    schedule: str = TUNED.field("constant", "of the learning rate", ("constant", "step", "cosine"))
    warmup: int = TUNED.field(0, "epochs in which the learning rate rises linearly", EPOCHS)
    step_every: int = STEPWISE.field(10, "epochs between two steps of the step schedule", COUNT)
    gamma: float = STEPWISE.field(0.1, "factor of the step schedule", POSITIVE)
    clip: float | None = TUNED.field(None, "largest global norm of the gradient", POSITIVE)
    drop_last: bool = TRAINING.field(False, "leave the last short batch of an epoch out")
    seed: int = MACHINE.field(0, "of weights, order and dropout", SEEDS, resume=FIXED)
    checkpoint: str | None = CHECKPOINTS.field(
        None, "where checkpoints go; SIGTERM, SIGUSR1, SIGUSR2 and SIGXCPU then save and end the run", "DIR"
    )
    resume: bool = CHECKPOINTS.field(False, "go on from the newest checkpoint in DIR; without one, begin")
    keep: int | None = CHECKPOINTS.field(None, "how many checkpoints remain; default: 3", PARTS)
    save_every: int | None = CHECKPOINTS.field(None, "updates between two checkpoints; default: one an epoch", COUNT)
    survive: str | None = SURVIVAL.field(
        None, "go on when ranks die (mpirun --with-ft ulfm), with fewer, or with new ones in their place", SURVIVE
    )
    copy_every: int | None = SURVIVAL.field(
        None,
        "updates between two copies in the memory of other ranks; default: such that they cost 2 % of the time",
        COUNT,
    )
    regrid: str | None = SURVIVAL.field(None, "change the grid after so many updates: 100:4x1,200:2x2", "N:PRxPC")

    def __post_init__(self):
        if self.lr is None:
            object.__setattr__(self, "lr", LEARNING_RATES.get(self.optimizer))

    @property
    def regrids(self) -> dict[int, str]:
        """The grids that a run changes to, by the updates after which it does."""
        asked = {}
        for term in self.regrid.split(",") if self.regrid else ():
            step, _, grid = term.strip().partition(":")
            if not (step.isdecimal() and int(step) and grid) or int(step) <= max(asked, default=0):
                raise UserError(f"--regrid {self.regrid}: write updates, in order, and grids as 100:4x1,200:2x2")
            asked[int(step)] = grid
        return asked

    def check(self) -> None:
        _ = self.regrids
        if self.loss not in LOSSES and not is_own(self.loss):
            raise unknown("loss", self.loss, LOSSES)
        if self.accumulate > self.batch:
            raise UserError(f"--accumulate {self.accumulate} is more parts than a batch of {self.batch} has samples")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov needs momentum, but --momentum is 0")
        if self.copy_every and self.survive is None:
            raise UserError(f"--copy-every {self.copy_every} is of --survive: add it, or leave this out")
        for name in ("resume", "keep", "save_every"):
            if self.checkpoint is None and getattr(self, name):
                raise UserError(f"{flag(name)} needs the directory of the checkpoints: --checkpoint DIR")


@dataclass(frozen=True)
class DeviceOptions:
    """What computes, and in which numbers.

    Weights are kept, summed and updated in float32 where ``dtype`` has 16 bits.
    """

    dtype: str = MACHINE.field(
        "float32",
        "of activations and products; with 16 bits, weights are kept and summed in float32",
        tuple(ITEMSIZES),
        resume=FIXED,
    )
    tf32: bool = ON_GPU.field(False, "products of float32 on a GPU: of factors rounded to TF32", negative=True)
    graphs: bool = ON_GPU.field(
        False, "a GPU's work between two messages as one CUDA graph: less for the host to do", negative=True
    )
    backend: str = MACHINE.field("numpy", "what computes: the CPU, or one NVIDIA GPU a rank", ("numpy", "cupy"))
    kernels: str = ON_CPU.field(
        "auto",
        "local mathematics of numpy; auto is the fastest that is installed",
        ("auto", "reference", "numba", "onednn"),
    )
    conv: str = ON_GPU.field(
        "auto", "convolutions on a GPU; auto is cudnn where it is installed", ("auto", "gemm", "cudnn")
    )
    transport: str = ON_GPU.field(
        "auto", "how arrays of GPUs move between ranks", ("auto", "cuda-aware", "nccl", "host"), command="audit"
    )
    threads: int | None = MACHINE.field(
        None, "BLAS threads per rank; default: OMP_NUM_THREADS, or its share of the cores", COUNT
    )
    stall_warn: float = STALLS.field(
        60.0, "seconds that a rank waits before one line says for whom, and what that rank does; 0: never", SECONDS
    )
    stall_exit: float | None = STALLS.field(
        None,
        "seconds after which such a job ends, with status 3; gridnn check --last: what its ranks did",
        SOME_SECONDS,
    )

    def check(self) -> None:
        if self.tf32 and self.dtype != "float32":
            raise UserError(f"--tf32 has no effect with --dtype {self.dtype}: leave it out, or use --dtype float32")
        if self.conv == "cudnn" and self.dtype == "float64":
            raise UserError("--conv cudnn: cuDNN convolves no float64: use --conv gemm, or another --dtype")

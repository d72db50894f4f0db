"""What a forward pass knows besides its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from tonnage.arch.tape import Storage, Tape, Value
from tonnage.record import Record

if TYPE_CHECKING:
    from tonnage.arch.float8 import Narrow
    from tonnage.arch.fused import Fused
    from tonnage.arch.sight.deep import Deep
    from tonnage.arch.texts import Texts
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.arch.tuning.prompted import Prompted

AttentionKernel = Literal[
    "eager", "flash", "efficient", "cudnn", "math", "unfused", "flash_attention_2", "flex"
]  # fmt: skip
"""What computes attention. ``math`` is torch's choice where heads are grouped and flash attention takes no tensors of
that format: the unfused path but for heads that are repeated; ``unfused`` is that path wherever heads are."""
BESIDE: Final = -1
"""Where the mask of what lies beside the text is among the masks, by window: none is negative."""


class Mixers(Record):
    """What computes recurrent mixers in a training step.

    Args:
        package: whose kernels do; None for operations of torch.
        processors: multiprocessors of the device, over which kernels split their sums.
        tiling: columns that a kernel of fla takes at once on the device.
    """

    package: Literal["mamba-ssm", "fla"] | None = None
    processors: int = 132
    tiling: int = 128


class Shared(dict[Any, Any]):
    """What layers share, and which of it a layer has asked for."""

    def __init__(self, taken: set[Storage]) -> None:
        super().__init__()
        self._taken = taken

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self._taken.update(v.storage for v in (found if isinstance(found, tuple) else (found,)))
        return found

    def get(self, key: Any, default: Any = None) -> Any:
        """As a dictionary's, but noted."""
        try:
            return self[key]
        except KeyError:
            return default


class Forward:
    """The circumstances of one pass.

    Args:
        tape: where storages are born and die.
        kernel: what computes attention.
        training: whether dropout is on.
        cached: tokens already in the cache.
        store: called with a layer's new keys and values (or other state) when a cache is kept; returns what is
            attended.
        mixer: what computes recurrent mixers; None where their pass is not modelled, as with a cache.
        tuning: matrices that are packed or have adapters.
        fused: kernels that stand for several operations; None where the model's own code runs.
        narrow: matrices that are multiplied in fp8.
        input_grads: the word embedding's output needs a gradient though its table is frozen
            (``enable_input_require_grads``).
        texts: the texts of rows that hold several; None where a row is one.

    ``held`` is what the modelled layer's local variables still name when it is no longer used; a layer lets go of it
    when it returns. ``local`` is the same for a block, ``frame`` for the model, which returns when its
    layers are through.
    ``positions`` are a table's indices that every layer is handed as well.
    ``prefixes`` are the keys and values that each layer finds in its cache.
    ``prompted`` is what the attention at hand sees apart.
    ``labels`` are those of a pass that lengthens its sequences; ``around`` what code around the model names until the
    loss is there.
    ``logits`` are those that a loss of its own hands back to the caller.
    ``given`` are positions that the batch brings, and ``bounds`` where it says that texts begin.
    ``blocks`` are masks by blocks of tokens, of flex attention; ``documents`` are the formats of what
    tells of each token which document it is of, and where it stands in it.
    ``weights`` are the attention weights that a layer names but does not use; ``carried`` those that it handed back.
    ``seen`` is the mask of the block at hand where it has one of its own, ``chosen`` what an indexer chose, until the
    next one does.
    ``rebound`` are those of the frame whose names the model's code takes for others before its last norm.
    ``lent`` are the keys and values that layers make for later ones of their kind.
    ``inputs`` are embeddings of every layer, ``row`` those of the layer at hand.
    ``encoder`` is what cross attention sees, ``hidden`` zeros and ones for its rows (Llama 3.2 Vision), ``zeros`` the
    bias of its scores that layers share (T5), and ``position`` the bias that the block at hand adds.
    ``embedded`` is the format of the embedding that the model's code makes masks by.
    ``deep`` is what is seen and added to the outputs of the first layers.
    ``eye`` puts what is seen into the embedding: of circumstances, token ids and embedding.
    ``again`` are the modules of a layer that are computed again, each for itself; ``checkpoints`` tells that the
    model's modules know of checkpoints, and ``nests`` that these have a backward pass of their own.
    """

    __slots__ = (
        "again",
        "around",
        "bias",
        "blocks",
        "bounds",
        "cached",
        "carried",
        "checkpoints",
        "chosen",
        "deep",
        "documents",
        "embedded",
        "encoder",
        "eye",
        "frame",
        "fused",
        "given",
        "held",
        "hidden",
        "input_grads",
        "inputs",
        "kernel",
        "labels",
        "lent",
        "local",
        "logits",
        "masks",
        "mixer",
        "narrow",
        "nests",
        "position",
        "positions",
        "prefixes",
        "prompted",
        "ran",
        "rebound",
        "rotary",
        "row",
        "seen",
        "store",
        "taken",
        "tape",
        "texts",
        "training",
        "tuning",
        "weights",
        "zeros",
    )  # fmt: skip

    def __init__(
        self,
        tape: Tape,
        kernel: AttentionKernel,
        *,
        training: bool = False,
        cached: int = 0,
        store: Callable[[tuple[Value, ...], int | None], tuple[Value, ...]] | None = None,
        mixer: Mixers | None = None,
        tuning: Tuning | None = None,
        fused: Fused | None = None,
        narrow: Narrow | None = None,
        input_grads: bool = False,
        texts: Texts | None = None,
    ) -> None:
        self.tape = tape
        self.texts = texts
        self.kernel = kernel
        self.training = training
        self.cached = cached
        self.store = store
        self.mixer = mixer
        self.tuning = tuning
        self.fused = fused
        self.narrow = narrow
        self.input_grads = input_grads
        self.taken: set[Storage] = set()
        self.ran: set[str] = set()
        self.rotary: dict[str, tuple[Value, Value]] = Shared(self.taken)
        self.masks: dict[int | None, Value] = Shared(self.taken)
        self.blocks: dict[int | None, tuple[Value, ...]] = Shared(self.taken)
        self.documents: tuple[str, ...] = ()
        self.embedded = ""
        self.again: frozenset[str] = frozenset()
        self.checkpoints = False
        self.nests = False
        self.bias: Value | None = None
        self.inputs: Value | None = None
        self.row: Value | None = None
        self.chosen: Value | None = None
        self.seen: Value | None = None
        self.encoder: Value | None = None
        self.deep: Deep | None = None
        self.eye: Callable[[Forward, Value, Value], Value] | None = None
        self.hidden: Value | None = None
        self.zeros: Value | None = None
        self.bounds: Value | None = None
        self.given: Value | None = None
        self.position: Value | None = None
        self.labels: Value | None = None
        self.lent: dict[str, tuple[Value, Value]] = {}
        self.positions: Value | None = None
        self.prefixes: list[tuple[Value, Value]] = []
        self.prompted: Prompted | None = None
        self.around: list[Value] = []
        self.logits: list[Value] = []
        self.held: list[Value] = []
        self.local: list[Value] = []
        self.frame: list[Value] = []
        self.rebound: list[Value] = []
        self.weights: list[Value] = []
        self.carried: list[Storage] = []

    def end_layer(self, *, carries: bool) -> None:
        """What a layer named is gone, but for the weights that it hands back where it ``carries`` them."""
        self.carried = [v.storage for v in self.weights] if carries else []
        self.row = None
        if carries and self.tape.returned is not None:
            self.tape.returned += self.weights
        self.weights.clear()
        self.held.clear()
        self.local.clear()

    def called_with(self) -> set[Storage]:
        """What every layer is called with, whether or not it asks for it: the bias, what lies beside the text."""
        beside = self.bias, self.inputs, self.encoder, self.hidden, self.masks.get(BESIDE)
        return {v.storage for v in beside if v is not None}

    def shared(self) -> list[Value]:
        """What the pass makes once for all layers: rotary tables, masks, the bias of positions, what lies beside."""
        tables = [v for pair in self.rotary.values() for v in (pair if pair[0] is not pair[1] else pair[:1])]
        blocks = [v for found in self.blocks.values() for v in found]
        beside = [v for v in (self.bias, self.inputs, self.encoder, self.hidden) if v is not None]
        return tables + list(self.masks.values()) + blocks + beside

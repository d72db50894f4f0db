"""Launch commands: what starts an engine, read into the keys of a workload and written from them.

One module per stack, with one constant: its flags as a table from names to keys. Which flags a stack has at all, with
what each takes, are the lists of ``data/flags/``, made of the engines' own parsers; what is on a list and in no table
cannot change memory, and is passed over in silence. A flag on no list is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.launch._settings import parsed
from tonnage.launch._values import as_told
from tonnage.record import Record
from tonnage.registry import chosen, names, variant
from tonnage.workload.told import Told

PACKAGE: Final = "tonnage.launch"
ALIASES: Final = {
    "trtllm": "tensorrt_llm",
    "llama.cpp": "llamacpp",
    "llama-cpp": "llamacpp",
}


class Flag(Record):
    """A flag that memory depends on.

    Args:
        names: all its spellings, the one that is written first.
        key: of the workload; what begins with an underscore is the stack's own, settled by its ``finish``.
        reads: its value, as told, with the flag's name; a switch gives True or False.
        writes: a key's value as the flag takes it.
        reads_switch: whether ``reads`` is also asked, with an empty text, where the flag stands without a value.
        plain: values that need not be written, since the stack takes them anyway.
        matters: what it does to memory, where that is not modelled.
        harmless: values of such a flag with which it does nothing.
    """

    names: tuple[str, ...]
    key: str = ""
    reads: Callable[[str, str], Any] = staticmethod(as_told)
    writes: Callable[[Any], str] = str
    plain: tuple[Any, ...] = ()
    reads_switch: bool = False
    matters: str = ""
    harmless: tuple[str, ...] = ()


class Launch(Record):
    """How one stack is started.

    Args:
        name: of the engine, as a workload has it.
        starts: what its commands begin with, word by word.
        images: parts of names of its containers.
        flags: those that memory depends on.
        model: flags that name the model; the first positional argument does where ``positional``.
        positional: whether the model may stand without a flag.
        finish: settles what several flags decide together: takes keys as read, ``_program`` and ``_model`` among
            them, and devices that are seen; gives the workload's keys and what has to be said of it.
        always: keys that are written whatever was said.
        tails: keys that ``tail`` writes.
        tail: words that are written for keys of which no single flag tells.
        ending: of the file that it reads; "" where it reads a checkpoint.
        begin: words of a command that is written, the model's name in place of ``MODEL``.
        equals: whether ``--flag=value`` is understood.
        prefixes: whether the beginning of a name is, where no other name begins so.
        dashes: whether an underscore in a name is a dash.
        variables: the flag that a variable stands for.
        prompt: whether words behind the model are a prompt, not an error.
        lead: words that are written before the command: variables that it reads.
        log: the engine whose log it prints, where that is not its own.
        file: the flag that names a file of settings; "" where none does.
        reads: the settings of that file's text.
        settings: names of settings in that file that differ from their flag, and the flag; a name with an underscore
            before it stands in the table of flags alone.
        inert: settings of that file that cannot change memory and are no flags.
        file_wins: whether the file wins over the command.
        noted: variables that change memory in a way that is not answered, and what they do.
        whole: whether a request may be as long as the model where no length is told.
        formats: quantization methods and the scheme that stands for each where the checkpoint is not quantized.
        reference: the parser.
    """

    name: str
    starts: tuple[tuple[str, ...], ...]
    images: tuple[str, ...]
    flags: tuple[Flag, ...]
    begin: tuple[str, ...]
    reference: str
    model: tuple[str, ...] = ()
    positional: bool = False
    finish: Callable[[dict[str, Any], int | None], tuple[dict[str, Any], list[str]]] = staticmethod(
        lambda said, _: (said, [])
    )
    always: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    tail: Callable[[Mapping[str, Any]], list[str]] = staticmethod(lambda _: [])
    equals: bool = True
    prefixes: bool = False
    dashes: bool = False
    variables: Callable[[str], str | None] = staticmethod(lambda _: None)
    prompt: bool = False
    lead: Callable[[Mapping[str, Any]], list[str]] = staticmethod(lambda _: [])
    log: str = ""
    reads: Callable[[str, str | None], dict[str, Any]] = staticmethod(parsed)
    file: str = ""
    settings: Mapping[str, str] = {}
    inert: tuple[str, ...] = ()
    file_wins: bool = False
    noted: Mapping[str, str] = {}
    whole: bool = True
    ending: str = ""
    formats: Mapping[str, str] = {}


class Command(Record):
    """What a launch command says.

    Args:
        stack: the engine.
        model: as it names it; None where it names none.
        said: keys of the workload.
        unmodelled: flags that change memory in a way that is not answered, each with what it does.
        method: quantization method that it names.
        whole: whether a request may be as long as the model.
    """

    stack: str
    model: str | None
    said: Mapping[str, Any]
    unmodelled: tuple[str, ...] = ()
    method: str | None = None
    whole: bool = False


def stacks() -> tuple[Launch, ...]:
    """Every stack whose commands are known."""
    return tuple(variant(PACKAGE, name, "LAUNCH", Launch) for name in names(PACKAGE))


def stack(name: str) -> Launch:
    """The stack of that name.

    Raises:
        InputError: there is none.
    """
    return chosen(PACKAGE, name, "LAUNCH", Launch, key="to", what="engine to write a command for", aliases=ALIASES)


def read(text: str) -> Command:
    """The workload that a launch command asks for.

    Args:
        text: as it is typed into a shell: variables, wrappers and containers included; or a file of docker compose or
            Kubernetes, with ``:NAME`` behind it where several of its services start an engine.

    Raises:
        InputError: no stack's command, a flag that the stack does not have, or a value that it refuses.

    >>> read("vllm serve org/name -tp 2 --max-model-len 8K").said
    {'tp': 2, 'context': 8192, 'engine': 'vllm'}
    """
    from tonnage.launch._reading import command

    return command(text, stacks())


def known(text: str) -> bool:
    """Whether a text is a launch command; a single word is one only where it names a file of services.

    >>> known("vllm serve org/name"), known("llama-3.1-8b")
    (True, False)
    """
    from tonnage.launch._reading import starts

    return any(starts(text, stack) for stack in stacks())


def asked(told: Told, command: Command | None, model: Model, said: Mapping[str, Any]) -> dict[str, Any]:
    """The workload of a run: what is said beside, then the command, then what its log states where neither does."""
    from tonnage.launch._applied import of_run

    return of_run(told, command, model, said)


def named(command: Command) -> str:
    """The model that a command names.

    Raises:
        InputError: none, or a variable of the shell.
    """
    from tonnage.launch._shell import VARIABLE

    model = command.model
    if model is None or VARIABLE.search(model):
        why = "names no model" if model is None else f"names {model}, whose value only the shell knows"
        raise InputError(f"the command {why}", key="model", value=model, hint="add --model NAME")
    return model


def applied(
    command: Command, model: Model, said: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """The keys of a workload for a model; ``said`` wins over what the command says.

    Returns:
        The keys, what the command asks for that is not answered, and what has to be said of it.
    """
    from tonnage.launch._applied import applied as settled

    return settled(command, model, said)


def write(name: str, model: str, workload: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The command that does what a workload asks for.

    Args:
        name: of the stack.
        model: as the stack finds it.
        workload: with every default filled in.
        said: the keys that were given.

    Returns:
        The command, and what it cannot say.

    Raises:
        InputError: the stack is not known, or the workload is another engine's.

    >>> write("vllm", "org/name", {"engine": "vllm", "tp": 2, "context": 8192}, {})
    ('vllm serve org/name --tensor-parallel-size 2 --max-model-len 8192', ())
    """
    from tonnage.launch._writing import written

    return written(stack(name), model, workload, said)

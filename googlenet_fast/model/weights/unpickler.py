"""Read pickles of strangers without running anything in them.

Globals that a file of weights needs are replaced by the reader's stand-ins, all others by an inert
`Foreign`. Time and memory are bounded: no opcode allocates what the file declares but does not
hold, only text and small integers are keys, so that nothing nested is hashed, and the number of
opcodes is limited.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

MAX_OPCODES = 2_000_000
"""A checkpoint of GoogLeNet with its optimizer takes about 50,000."""
_LONGEST_NAME = 80
_MOST = 16
"""Arguments of a function that tensors need."""

Globals = Mapping[tuple[str, str], Any]
"""Module and name -> what takes the place of the global; a function is called for its results."""


class RefusedError(Exception):
    """A pickle that no file of weights needs; the message is the reason."""


class Foreign:
    """Stands for a class or function that is not needed, for its objects and its results."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class StandIn:
    """Stands for an object; `set_state` gets its pickled state and must not copy it."""

    def set_state(self, state: Any) -> None:
        """Take the state, or pass over it."""


_PRIVATE: Any = pickle
"""Its unpickler in Python is private, but older than most libraries."""


class Unpickler(pickle._Unpickler):
    """Python's unpickler, whose memo is a dict; the C one allocates up to any index in the file.

    The result is made of dicts, lists (also for sets), tuples, plain values, what the functions of
    `globals_` return, and `Foreign`.

    Args:
        file: has `read` and `readline`.
        globals_: what replaces globals.
        persistent_load: returns the object of a persistent id.
    """

    _file_read: Any
    _file_readline: Any
    pop_mark: Any
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: Any, globals_: Globals, persistent_load: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(file)
        self._globals = globals_
        self._persistent_load = persistent_load

    def load(self) -> Any:
        """Return the object; raise `RefusedError`, or what a damaged pickle leads to."""
        self._unframer = _PRIVATE._Unframer(self._file_read, self._file_readline)
        self.read, self.readinto = self._unframer.read, self._unframer.readinto
        self.readline = self._unframer.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        try:
            for _ in range(MAX_OPCODES):
                opcode = self.read(1)
                if not opcode:
                    raise EOFError
                self.dispatch[opcode[0]](self)
        except _PRIVATE._Stop as stop:
            return stop.value
        raise RefusedError(f"it has more than {MAX_OPCODES:,} instructions")

    def persistent_load(self, pid: Any) -> Any:
        """Return the object of a persistent id."""
        if self._persistent_load is None:
            raise pickle.UnpicklingError("a persistent id")
        return self._persistent_load(pid)

    def find_class(self, module: str, name: str) -> Any:
        """Return what replaces a global; nothing is imported."""
        if (module, name) in self._globals:
            return self._globals[module, name]
        return Foreign(f"{module[:_LONGEST_NAME]}.{name[:_LONGEST_NAME]}")


def call(function: Any, arguments: Any) -> Any:
    """Return the result of a stand-in; a long tuple of arguments, shared by many calls, is refused.

    Raises:
        pickle.UnpicklingError: not a function and its arguments.
    """
    if isinstance(function, Foreign):
        return function
    if not callable(function) or not isinstance(arguments, tuple) or len(arguments) > _MOST:
        raise pickle.UnpicklingError("a call of something that is no function")
    return function(*arguments)


def _reduce(self: Unpickler) -> None:
    arguments = self.stack.pop()
    self.stack[-1] = call(self.stack[-1], arguments)


def _reduce_with_keywords(self: Unpickler) -> None:
    self.stack.pop()
    _reduce(self)


def _build(self: Unpickler) -> None:
    state = self.stack.pop()
    if isinstance(self.stack[-1], StandIn):
        self.stack[-1].set_state(state)


def _old_object(self: Unpickler) -> None:
    function, *arguments = self.pop_mark()
    self.append(call(function, tuple(arguments)))


def _old_instance(self: Unpickler) -> None:
    module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
    self.append(call(self.find_class(module, name), tuple(self.pop_mark())))


def _append(self: Unpickler) -> None:
    item = self.stack.pop()
    _extend(self.stack[-1], [item])


def _append_all(self: Unpickler) -> None:
    items = self.pop_mark()
    _extend(self.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _set_item(self: Unpickler) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    _update(self.stack[-1], [key, value])


def _set_items(self: Unpickler) -> None:
    items = self.pop_mark()
    _update(self.stack[-1], items)


def _dict_of_items(self: Unpickler) -> None:
    items = self.pop_mark()
    self.append({})
    _update(self.stack[-1], items)


def _update(target: Any, items: list[Any]) -> None:
    """Set keys and values in turn; other keys than text and 64-bit integers are passed over."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is str or (type(key) is int and -(2**63) <= key < 2**63):
                target[key] = value


def _refused(self: Unpickler) -> None:
    raise RefusedError("it has an instruction that no tensor needs")


Unpickler.dispatch |= {
    pickle.REDUCE[0]: _reduce,
    pickle.NEWOBJ[0]: _reduce,
    pickle.NEWOBJ_EX[0]: _reduce_with_keywords,
    pickle.OBJ[0]: _old_object,
    pickle.INST[0]: _old_instance,
    pickle.BUILD[0]: _build,
    pickle.APPEND[0]: _append,
    pickle.APPENDS[0]: _append_all,
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.DICT[0]: _dict_of_items,
    pickle.EMPTY_SET[0]: pickle._Unpickler.dispatch[pickle.EMPTY_LIST[0]],
    pickle.FROZENSET[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
    pickle.ADDITEMS[0]: _append_all,
    # BYTEARRAY8 allocates as much as the file says; the others read copyreg's registry.
    **{code[0]: _refused for code in (pickle.BYTEARRAY8, pickle.EXT1, pickle.EXT2, pickle.EXT4)},
}

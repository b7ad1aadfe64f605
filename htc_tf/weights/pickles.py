"""A safe unpickler: reads arrays, numbers, strings and containers of them, and nothing else.

A pickle is a program: it can name and call any function of any module, and a few bytes of it can take all memory. So
Python's own unpickler is not used. `pickletools` splits the file into instructions, `ArrayUnpickler` executes only the
ones for arrays and containers, and a Budget bounds the work. A training checkpoint also holds objects of its framework,
such as the history of the losses: a global outside one short table becomes an `Inert`, which is neither imported nor
called, and whatever is made of it is inert too. A global that runs commands is refused.
"""

import os
import pickletools
from typing import Any, BinaryIO

from htc_tf.errors import UserError
from htc_tf.weights.pickled_arrays import DTYPES, GLOBALS, HARMFUL, Call, Inert, Storage, check_key

MAX_INSTRUCTIONS = 1_000_000  # of all pickles in a file; a checkpoint of 2,400 tensors has about 100,000
MAX_BITS = 128  # of an integer
MAX_NAME = 300  # characters of a global, which may be named again and again


class Budget:
    """Work that a file may still cause, bounded by its size.

    Attributes:
        instructions: Number of instructions left for its pickles.
        copied: Number of elements and characters that calls may still copy; in a harmless file each has its own byte.
    """

    def __init__(self, size: int) -> None:
        self.instructions = MAX_INSTRUCTIONS
        self.copied = size

    def spend(self, what: str, amount: int) -> None:
        left = getattr(self, what) - amount
        if left < 0:
            raise ValueError(f"more {what} than a file of this size allows")
        setattr(self, what, left)


class ArrayUnpickler:
    """Reads one pickle; `storages` is {key: Storage} of its tensors."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike, budget: Budget) -> None:
        """
        Args:
            file: Binary file at the first byte of the pickle; `load` leaves it after the last one.
            path: Path of the file, for messages.
            budget: The Budget, shared by all pickles of a file.
        """
        self.file, self.path, self.budget = file, path, budget
        self.storages, self.stack, self.marks, self.memo = {}, [], [], {}

    def load(self) -> Any:
        """Returns the object.

        Raises:
            UserError: The pickle names a global that runs commands.
            ValueError, ...: The pickle is damaged or exceeds its budget.
        """
        # `genops` compares every length with the bytes left before it reads.
        for instruction, argument, _ in pickletools.genops(self.file):
            self.budget.spend("instructions", 1)
            if isinstance(argument, int) and argument.bit_length() > MAX_BITS:
                raise ValueError(f"a number of more than {MAX_BITS} bits")
            if instruction.name in VALUES:
                self.stack.append(argument)
            else:
                getattr(self, f"do_{instruction.name.lower()}", self.refuse)(argument)
        (content,) = self.stack
        return content

    def refuse(self, argument: Any) -> None:
        raise ValueError("an instruction that arrays do not need")

    def pop_to_mark(self) -> list[Any]:
        """Removes and returns the items on the stack above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def find_global(self, name: str) -> Any:
        """Returns the replacement of a global, an Inert if it is not in the table.

        Args:
            name: "module.name".
        Raises:
            UserError: The global runs commands.
        """
        if name in GLOBALS:
            return GLOBALS[name]
        shown = "".join(letter if letter.isprintable() else "?" for letter in name[:100])
        if HARMFUL.match(name):
            raise UserError(
                f"{self.path} names the global {shown}, which runs commands or code and which no checkpoint needs: "
                "refused. Do not open the file with its own framework either, which would run it"
            )
        return Inert(shown)

    def find_storage(self, pid: Any) -> Storage | Inert:
        """Returns the Storage of PyTorch's reference ("storage", type, key, device, count[, view])."""
        kind, dtype, key, _, count, *view = pid
        if isinstance(dtype, Inert):  # such as complex numbers
            return dtype
        plain = all(isinstance(part, str) for part in (kind, dtype, key)) and type(count) is int
        if not plain or kind != "storage" or dtype not in DTYPES or any(part is not None for part in view):
            raise ValueError("a reference to something other than a storage of numbers")
        return self.storages.setdefault(check_key(key), Storage(DTYPES[dtype], count))

    def do_nothing(self, argument: Any) -> None:
        pass

    do_proto = do_frame = do_stop = do_nothing

    def do_none(self, _: Any) -> None:
        self.stack.append(None)

    def do_newtrue(self, _: Any) -> None:
        self.stack.append(True)

    def do_newfalse(self, _: Any) -> None:
        self.stack.append(False)

    def do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self, _: Any) -> None:
        self.stack.pop()

    def do_pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def do_append(self, _: Any) -> None:
        item = self.stack.pop()
        self.top(list).append(item)

    def do_appends(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)

    # A set becomes a list, so that nothing is hashed.
    do_empty_set, do_additems = do_empty_list, do_appends

    def do_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    do_frozenset = do_tuple

    def do_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def do_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def do_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def do_dict(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_items(items)

    def do_setitem(self, _: Any) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self.set_items(items)

    def do_setitems(self, _: Any) -> None:
        self.set_items(self.pop_to_mark())

    def set_items(self, items: list[Any]) -> None:
        mapping = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[check_key(key)] = value

    def top(self, kind: type) -> Any:
        """Returns the container on top of the stack, or an empty one to throw away if an Inert is there."""
        if isinstance(self.stack[-1], Inert):
            return kind()
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {type(self.stack[-1]).__name__} instead of a {kind.__name__}")
        return self.stack[-1]

    def do_put(self, key: Any) -> None:
        # Larger integers could share a hash, as in `check_key`.
        if not 0 <= key <= MAX_INSTRUCTIONS:
            raise ValueError("an index of the memo beyond the number of instructions")
        self.memo[key] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, key: Any) -> None:
        self.stack.append(self.memo[key])

    do_binget = do_long_binget = do_get

    def do_global(self, names: str) -> None:
        self.stack.append(self.find_global(names.replace(" ", ".", 1)))

    def do_stack_global(self, _: Any) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        if not (isinstance(module, str) and isinstance(name, str) and len(module) + len(name) <= MAX_NAME):
            raise ValueError("a global whose name is not a short text")
        self.stack.append(self.find_global(f"{module}.{name}"))

    def do_reduce(self, _: Any) -> None:
        function, args = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(function, Call | Inert) or type(args) is not tuple:
            raise ValueError("a call of something other than a function")
        if isinstance(function, Inert):
            self.stack.append(function)
            return
        self.budget.spend("copied", len(args))
        self.budget.spend("copied", sum(len(arg) for arg in args if hasattr(arg, "__len__")))
        inert = next((arg for arg in args if isinstance(arg, Inert)), None)
        self.stack.append(function(*args) if inert is None else inert)

    def push_instance(self, kind: Any) -> None:
        """Puts an instance of a class on the stack; arrays and containers are made by calls instead."""
        if not isinstance(kind, Inert):
            raise ValueError("an instance of something other than a class")
        self.stack.append(kind)

    def do_newobj(self, _: Any) -> None:
        self.stack.pop()
        self.push_instance(self.stack.pop())

    def do_newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self.do_newobj(_)

    def do_obj(self, _: Any) -> None:
        self.push_instance(self.pop_to_mark()[0])

    def do_inst(self, names: str) -> None:
        self.pop_to_mark()
        self.do_global(names)
        self.push_instance(self.stack.pop())

    def do_build(self, _: Any) -> None:
        state = self.stack.pop()
        if not hasattr(self.stack[-1], "set_state"):
            raise ValueError(f"a {type(self.stack[-1]).__name__} has no state to set")
        self.stack[-1].set_state(state)

    def do_binpersid(self, _: Any) -> None:
        pid = self.stack.pop()
        if type(pid) is not tuple:
            raise ValueError("a reference to something other than a storage of numbers")
        self.stack.append(self.find_storage(pid))


# Instructions that put their argument on the stack.
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

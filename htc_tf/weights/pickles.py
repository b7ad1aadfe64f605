"""Pickles read as data: arrays, numbers, strings and containers of them, and nothing else.

A pickle is a program: it may name any function of any module and have it called, and a few bytes of it may take all
memory. So Python's own machine for it is not used. `pickletools` takes the file apart, `ArrayUnpickler` does what the
instructions of arrays and containers say, a name outside one short table ends the reading, and a Budget bounds what it
takes. Comes after `files`, which finds the pickle in a file, and before `versions`.
"""

import pickletools

from htc_tf.errors import UserError
from htc_tf.weights.pickled_arrays import DTYPES, GLOBALS, Call, Storage, check_key

MOST_INSTRUCTIONS = 1_000_000  # of a file's pickles; a checkpoint of 2,400 tensors has about 100,000
MOST_BITS = 128  # of a whole number


class Budget:
    """What a file may still take, by its size.

    Attributes:
        instructions: of its pickles.
        copied: elements and characters that functions copy. Each has its byte in a file that is not made to harm.
    """

    def __init__(self, size):
        self.instructions = MOST_INSTRUCTIONS
        self.copied = size

    def spend(self, what, amount):
        left = getattr(self, what) - amount
        if left < 0:
            raise ValueError(f"more {what} than a file of this size holds")
        setattr(self, what, left)


class ArrayUnpickler:
    """Reads one pickle; `storages` are those that its tensors are views of, by key."""

    def __init__(self, file, path, budget):
        """
        Args:
            file: binary, at the pickle's first byte; afterwards behind its last.
            path: for messages.
            budget: Budget, shared by the pickles of a file.
        """
        self.file, self.path, self.budget = file, path, budget
        self.storages, self.stack, self.marks, self.memo = {}, [], [], {}

    def load(self):
        """The object.

        Raises:
            UserError: a global outside the table.
            ValueError, ...: the pickle is damaged, or wants more than its bytes can pay for.
        """
        # `genops` compares every length with the bytes that are left before it reads.
        for instruction, argument, _ in pickletools.genops(self.file):
            self.budget.spend("instructions", 1)
            if isinstance(argument, int) and argument.bit_length() > MOST_BITS:
                raise ValueError(f"a number of more than {MOST_BITS} bits")
            if instruction.name in VALUES:
                self.stack.append(argument)
            else:
                getattr(self, f"do_{instruction.name.lower()}", self.refuse)(argument)
        (content,) = self.stack
        return content

    def refuse(self, argument):
        raise ValueError("an instruction that no array needs")

    def pop_to_mark(self):
        """-> what was put on the stack since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def find_global(self, name):
        """What a global of the table stands for.

        Args:
            name: its module and name, with a dot between.
        Raises:
            UserError: any other.
        """
        if name not in GLOBALS:
            shown = "".join(letter if letter.isprintable() else "?" for letter in name[:100])
            raise UserError(
                f"{self.path} names the global {shown}, which is no part of an array: refused. If you trust "
                "the file, write its weights alone by its own framework, as torch.save(checkpoint['state_dict'], NEW)"
            )
        return GLOBALS[name]

    def find_storage(self, pid):
        """PyTorch's reference to a storage: ("storage", type, key, device, count), in the older format a view too."""
        kind, dtype, key, _, count, *view = pid
        plain = all(isinstance(part, str) for part in (kind, dtype, key)) and type(count) is int
        if not plain or kind != "storage" or dtype not in DTYPES or any(part is not None for part in view):
            raise ValueError("a reference to something that is no storage of numbers")
        return self.storages.setdefault(key, Storage(DTYPES[dtype], count))

    def do_nothing(self, argument):
        pass

    do_proto = do_frame = do_stop = do_nothing

    def do_none(self, _):
        self.stack.append(None)

    def do_newtrue(self, _):
        self.stack.append(True)

    def do_newfalse(self, _):
        self.stack.append(False)

    def do_mark(self, _):
        self.marks.append(len(self.stack))

    def do_pop(self, _):
        self.stack.pop()

    def do_pop_mark(self, _):
        self.pop_to_mark()

    def do_empty_list(self, _):
        self.stack.append([])

    def do_list(self, _):
        self.stack.append(self.pop_to_mark())

    def do_append(self, _):
        item = self.stack.pop()
        self.top(list).append(item)

    def do_appends(self, _):
        items = self.pop_to_mark()
        self.top(list).extend(items)

    # A set is kept as a list: nothing of it is hashed.
    do_empty_set, do_additems = do_empty_list, do_appends

    def do_empty_tuple(self, _):
        self.stack.append(())

    def do_tuple(self, _):
        self.stack.append(tuple(self.pop_to_mark()))

    do_frozenset = do_tuple

    def do_tuple1(self, _):
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def do_tuple2(self, _):
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def do_tuple3(self, _):
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def do_empty_dict(self, _):
        self.stack.append({})

    def do_dict(self, _):
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_items(items)

    def do_setitem(self, _):
        items = self.stack[-2:]
        del self.stack[-2:]
        self.set_items(items)

    def do_setitems(self, _):
        self.set_items(self.pop_to_mark())

    def set_items(self, items):
        mapping = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[check_key(key)] = value

    def top(self, kind):
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {type(self.stack[-1]).__name__} in the place of a {kind.__name__}")
        return self.stack[-1]

    def do_put(self, key):
        self.memo[key] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, key):
        self.stack.append(self.memo[key])

    do_binget = do_long_binget = do_get

    def do_global(self, names):
        self.stack.append(self.find_global(names.replace(" ", ".", 1)))

    do_inst = do_global  # only to name it: no instance of a class is made

    def do_stack_global(self, _):
        module, name = self.stack[-2:]
        del self.stack[-2:]
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global whose name is no text")
        self.stack.append(self.find_global(f"{module}.{name}"))

    def do_reduce(self, _):
        function, args = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(function, Call) or type(args) is not tuple:
            raise ValueError("a call of something that is no function")
        self.budget.spend("copied", sum(len(arg) for arg in args if hasattr(arg, "__len__")))
        self.stack.append(function(*args))

    def do_build(self, _):
        state = self.stack.pop()
        if not hasattr(self.stack[-1], "set_state"):
            raise ValueError(f"a {type(self.stack[-1]).__name__} has no state to be set")
        self.stack[-1].set_state(state)

    def do_binpersid(self, _):
        pid = self.stack.pop()
        if type(pid) is not tuple:
            raise ValueError("a reference to something that is no storage of numbers")
        self.stack.append(self.find_storage(pid))


# Instructions that put their argument on the stack.
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

"""Bindings of a configuration before anything is built: values of macros, and which file or flag binds each name."""

import contextlib
import copy
from collections import defaultdict

from htc_tf.errors import UserError

LENGTH = ("EPOCHS", "STEPS")  # the length of a training in either unit; the later source wins


class Macros:
    """Reads and binds gin's macros and parameters.

    Attributes:
        text_name: Name, for messages, of the text that is parsed next, if it is not a file.
        bindings: [(parser, source, macro, value)], in the order of the configuration: each file and each text has a
            parser of its own, and `source` names it.
        names: {source: {name}} of everything that a file or a text binds itself, without its includes. The names are
            those of gin's own text: "scope/Name.parameter", or that of a macro.
        replaced: {name} of the macros that values referred to which `bind` has replaced.
    """

    def __init__(self, gin):
        self.gin, self.text_name, self.bindings, self.replaced = gin, None, [], set()
        self.names = defaultdict(set)

    def clear(self):
        """Forgets the bindings of what was parsed only to check it."""
        self.bindings.clear()
        self.names.clear()

    def record(self, parser, source, statement):
        """Records a gin BindingStatement."""
        scope, selector, parameter, value, _ = statement
        prefix = f"{scope}/" if scope else ""
        if parameter:
            registry = self.gin.config._REGISTRY
            found = registry.matching_selectors(selector)
            selector = registry.minimal_selector(found[0]) if len(found) == 1 else selector
            # `NAME/macro.value = ...` is gin's other way to write `NAME = ...`.
            self.names[source].add(scope if selector == "macro" else f"{prefix}{selector}.{parameter}")
        else:
            self.names[source].add(f"{prefix}{selector}")
            self.bindings.append((parser, source, selector, value))

    def read(self, names):
        """Returns {name: value} of the macros and parameters that are bound, with references resolved."""
        found = {}
        for name in names:
            with contextlib.suppress(ValueError):  # not bound
                found[name] = self.query(name)
        return found

    def query(self, name):
        value = self.gin.query_parameter(key(name))
        if isinstance(value, self.gin.config.ConfigurableReference) and value.config_key[1] == "gin.macro":
            return self.query("/".join(value.scopes))
        return copy.deepcopy(value)  # gin resolves a reference to a function or a constant when it is copied

    def bind(self, values):
        for name, value in values.items():
            with contextlib.suppress(ValueError):  # not bound before
                former = self.gin.query_parameter(key(name))
                self.replaced |= {"/".join(ref.scopes) for ref in self.gin.config.iterate_references(former)}
            self.gin.bind_parameter(key(name), value)

    def find_referred(self):
        """Returns {name} of the macros and the configurables that the bindings so far refer to."""
        registry = self.gin.config._REGISTRY
        references = self.gin.config.iterate_references(self.gin.config._CONFIG)
        keys = {reference.config_key for reference in references}
        return {scope if name == "gin.macro" else registry.minimal_selector(name) for scope, name in keys}

    def settle_length(self):
        """Sets EPOCHS or STEPS to None, whichever was bound earlier.

        Raises:
            UserError: A file or the flags bind both, or the Experiment has another length.
        """
        length, sources = dict.fromkeys(LENGTH), {}
        for parser, source, name, value in self.bindings:
            if name in LENGTH:
                if value is not None:
                    length = dict.fromkeys(LENGTH)
                length[name] = sources.setdefault((parser, source), {})[name] = value
        for (_, source), own in sources.items():
            if all(own.get(name) is not None for name in LENGTH):
                raise UserError(f"{source} binds both EPOCHS and STEPS: keep one")
        bound, referred = self.read(LENGTH), self.find_referred()
        self.bind({name: None for name in LENGTH if length[name] is None and (name in bound or name in referred)})
        if "EPOCHS" in bound and not self.read(["Experiment.epochs"]):
            self.gin.parse_config("Experiment.epochs = %EPOCHS")
        for name in LENGTH:
            own = f"Experiment.{name.lower()}"
            values = self.read([name, own])
            if len(values) == 2 and values[name] != values[own]:
                raise UserError(f"{own} = {values[own]!r}, but {name} = {values[name]!r}: bind {name} alone")


def key(name):
    """Returns the name by which gin binds a parameter, or a macro."""
    return name if "." in name else f"{name}/macro.value"


@contextlib.contextmanager
def record_macros(gin):
    """Yields a Macros that records the bindings that gin parses inside a "with" block."""
    from gin import config_parser

    macros, parser = Macros(gin), config_parser.ConfigParser

    class Parser(parser):
        """Records bindings; there is one parser for each file and each text."""

        def __init__(self, source, delegate):
            self.source = getattr(source, "name", macros.text_name)
            super().__init__(source, delegate)

        def parse_statement(self):
            statement = super().parse_statement()
            if isinstance(statement, config_parser.BindingStatement):
                macros.record(self, self.source, statement)
            return statement

    config_parser.ConfigParser = Parser
    try:
        yield macros
    finally:
        config_parser.ConfigParser = parser

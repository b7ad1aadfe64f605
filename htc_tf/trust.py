"""Trust in a run's configuration: refuses a config.gin that would run code or never end.

A run may come from a stranger, and gin can import and call anything.
"""

import functools
import sys
from collections import Counter, defaultdict

from htc_tf.errors import UserError

# Parts (configurables and macros) that a run's configuration may build, each counted as often as it is used. The
# largest configuration of htc_tf has about fifty; lists of lists of macros, forty levels deep, would never end.
MAX_PARTS = 10_000


def imported_modules(gin, paths, params):
    """Returns the modules that the user's gin files, their includes and bindings import; leaves gin's state empty."""

    def collect(includes):
        for parsed in includes:
            yield from parsed.imports
            yield from collect(parsed.includes)

    # Skips unknown names, which the run's configuration may import later; `config.load` reports mistakes.
    includes, imports = gin.parse_config([*(f"include {str(path)!r}" for path in paths), *params], skip_unknown=True)
    gin.clear_config()
    return {*imports, *collect(includes)}


def check_trust(text, run, modules=()):
    """Refuses a run's configuration that could run code other than htc_tf's own, or that never ends.

    gin's own parser reads the text statement by statement and executes nothing. The text may bind and reference
    configurables that htc_tf or one of `modules` has registered.

    Args:
        text: Text of the run's config.gin, exactly as it is parsed afterwards.
        run: The Run.
        modules: Names of modules that the user's own gin files import.
    Raises:
        UserError: The configuration imports another module, includes a file, names another configurable, or builds
            more than `MAX_PARTS`.
    """
    from gin import config, config_parser

    known = ("htc_tf", "gin.config", *modules)
    uses = defaultdict(Counter)  # {part: {part named in its bindings: occurrences}}
    named = []  # parts that the current statement names

    def refuse(what):
        raise UserError(
            f"{run.config} {what}, which can run code. If you trust the author of the run, add --trust_config "
            "(in Python: trust_config=True), or name the module yourself in a --gin_file that imports it"
        )

    class Delegate(config.ParserDelegate):
        """Sees every reference anywhere in a value, also in the keys of a dictionary."""

        def configurable_reference(self, name, evaluate):
            reference = super().configurable_reference(name, evaluate)
            module = getattr(reference.configurable.wrapped, "__module__", None) or "an unknown module"
            if not any(module == own or module.startswith(f"{own}.") for own in known):
                refuse(f"names {reference} of {module}")
            named.append(_last(name))
            return reference

        def macro(self, name):
            named.extend((f"%{_last(name)}", "macro"))  # bound as `NAME = ...` or as `NAME/macro.value = ...`
            return super().macro(name)

    delegate = Delegate()
    for statement in config_parser.ConfigParser(text, delegate):
        if isinstance(statement, config_parser.IncludeStatement):
            refuse(f"includes {statement.filename!r}")
        elif isinstance(statement, config_parser.ImportStatement):
            # Dynamic registration is always refused: it reaches everything that the named modules import.
            ours = statement.module.startswith("htc_tf.") and statement.module in sys.modules
            if not (ours or statement.module in modules) or statement.module.startswith("__gin__"):
                refuse(f"has the line {statement.format()!r}")
            __import__(statement.module)  # registers what later lines name
        elif isinstance(statement, config_parser.BlockDeclaration):
            delegate.configurable_reference(statement.selector, False)
        else:
            name = _last(statement.selector)
            uses[name if statement.arg_name else f"%{name}"].update(named)
            if statement.arg_name:
                delegate.configurable_reference(statement.selector, False)
        named.clear()

    @functools.cache
    def count(name):
        """Returns the number of parts that building `name` builds, itself included."""
        return 1 + sum(times * count(used) for used, times in uses[name].items())

    try:
        built = max(map(count, list(uses)), default=0)
    except RecursionError:
        raise UserError(f"{run.config} has a part or a macro that contains itself") from None
    if built > MAX_PARTS:
        raise UserError(f"{run.config} builds {built:,} parts, more than {MAX_PARTS:,}")


def _last(selector):
    """Returns a name without module and scope, since bindings of all scopes count together."""
    return selector.replace("/", ".").rpartition(".")[2]
